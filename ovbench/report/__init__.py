"""`ovbench report`: records and ledgers as one HTML file that needs nothing but a browser."""
