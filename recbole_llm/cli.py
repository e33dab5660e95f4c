"""The console script ``recbole-llm``."""
import argparse
import sys

def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    from recbole_llm.train import train
    from recbole_llm.errors import RecboleLlmError
    p=argparse.ArgumentParser()
    p.add_argument("--model",default="LLMSeqRec"); p.add_argument("--dataset",default="ml-100k"); p.add_argument("--config_files"); p.add_argument("--nproc",type=int,default=1)
    a,_=p.parse_known_args(argv[1:])
    try:
        r=train(a.model,a.dataset,a.config_files.strip().split(" ") if a.config_files else None,nproc=a.nproc)
        print(r)
    except RecboleLlmError as e:
        print(f"{type(e).__name__}: {e}",file=sys.stderr); return e.exit_code
