"""`conf-server allocate`: how many further samples each question of a file should get."""
