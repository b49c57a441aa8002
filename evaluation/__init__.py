"""Do the signals carry information? Questions with known answers, put to a real model."""
