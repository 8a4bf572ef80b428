"""What a notebook's closing figure runs: training runs, sweeps and their measurements.

One module a topic under the topic's name, plus `pretraining`, which makes the shipped checkpoint,
and `results`, which writes long measurements run by run and reads those that are shipped.
Each offers scale "lite" (a CPU, at most minutes) or ships its results under `data/experiments`;
"full" takes real data and a GPU. Experiments return plain numbers; figures are drawn elsewhere.
"""
