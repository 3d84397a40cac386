"""The Notify workflow: sends the deliveries that wait in one channel of a subscription. Budget's rows are the truth."""
