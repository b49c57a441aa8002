"""The estimators, one function a method. Pure: they read `Evidence` and ask nobody."""
