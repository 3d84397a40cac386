"""The end of a month: a report that is derived whenever it is asked, and one event for people."""
