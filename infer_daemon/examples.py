"""What a new user can paste while the demo runs."""

import sys

DEMO_KEY = "sk-demo-acme"


def examples(url: str, unix_socket: str, model: str, key: str) -> str:
    """Ready-to-paste calls of a running daemon.

    Args:
        unix_socket: its path, "" if there is none.
        key: one that is valid, or a placeholder.
    """
    auth = f"-H 'Authorization: Bearer {key}'"
    over_socket = f"""
  curl -s --unix-socket {unix_socket} http://localhost/v1/models \\
    {auth}
"""
    return f"""
The daemon answers at {url}. Try:

  curl -s {url}/v1/chat/completions {auth} \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}",
         "messages": [{{"role": "user", "content": "What is infer-daemon?"}}]}}'
{over_socket if unix_socket else ""}
  {sys.executable} -c '
  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  for event in client.chat.completions.create(model="{model}", stream=True,
          messages=[{{"role": "user", "content": "What does a 429 mean?"}}]):
      print(event.choices[0].delta.content or "", end="", flush=True)
  '

Stop with Ctrl-C.
"""
