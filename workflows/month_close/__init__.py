"""The MonthClose workflow: tells people of months that are over. Nothing is wrong where it runs late or twice."""
