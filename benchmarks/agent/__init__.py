"""The voice agent, talked to as a person talks: `python -m benchmarks.agent [--quick]`.

recordings.py has what is said, caller.py the person: a microphone that is always open and a loudspeaker, both in real
time. trials.py has the trials, processors.py what they cost, show.py the tables and the picture.
"""
