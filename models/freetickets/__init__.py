"""FreeTickets: ensembles of sparse nets from dynamic sparse training."""
