"""Reference implementations, checks and experiments of the course on pre-training and fine-tuning.

One module a topic, under the name of its notebook's subject. Importing the package costs nothing:
torch is loaded when a topic is used.
"""
