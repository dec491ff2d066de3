"""What one installation keeps: settings, store, ledger, and what stands by it."""
