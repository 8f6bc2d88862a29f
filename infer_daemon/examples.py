"""What a new user can paste while the demo runs."""

DEMO_KEY = "sk-demo-acme"


def examples(url: str, unix_socket: str, model: str) -> str:
    """Ready-to-paste calls of a running daemon."""
    return f"""
The daemon answers at {url} (keys of the demo: sk-demo-acme, sk-demo-globex, ...). Try:

  curl -s {url}/v1/chat/completions -H 'Authorization: Bearer {DEMO_KEY}' \\
    -H 'Content-Type: application/json' \\
    -d '{{"model": "{model}",
         "messages": [{{"role": "user", "content": "What is infer-daemon?"}}]}}'

  curl -s --unix-socket {unix_socket} http://localhost/v1/models \\
    -H 'Authorization: Bearer {DEMO_KEY}'

  python3 -c '
  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{DEMO_KEY}")
  for event in client.chat.completions.create(model="{model}", stream=True,
          messages=[{{"role": "user", "content": "What does a 429 mean?"}}]):
      print(event.choices[0].delta.content or "", end="", flush=True)
  '

Stop with Ctrl-C.
"""
