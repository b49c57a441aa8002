"""`conf-server report`: how well does each uncertainty tell right answers from wrong ones?"""
