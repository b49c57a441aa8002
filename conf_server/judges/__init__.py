"""Who compares texts: functions of their words, models given by path, the served model."""
