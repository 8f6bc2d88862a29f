"""What the ledger tells: one room per question. Everything here only reads, each answer from one
moment of the database (`reader`), and knows nothing of terminals or of HTTP."""
