"""The ledger's database: its schema (`schema`), its views (`views`), and what is written to it
(`statements`, `database`). One thread writes; whoever reads opens a connection of its own."""
