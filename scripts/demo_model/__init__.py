"""The pieces of `train_demo_model.py`: network, loss, data and evaluation of the detector that ships."""
