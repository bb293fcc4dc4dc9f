"""The Space: a web page over [`AnomalyInspector`], with a state of its own for each user."""
