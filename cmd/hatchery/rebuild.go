package main

import (
	"github.com/spf13/cobra"

	"hatchery/controller/operation"
)

func newRebuild(s *settings) *cobra.Command {
	f := &operationFlags{station: &station{settings: s}, request: operation.Request{Kind: operation.Rebuild}}
	k := &keptFlags{station: f.station}
	c := &cobra.Command{
		Use:   "rebuild {SLOT...|--all}",
		Short: "Make nodes as on their first day, without touching a card",
		Long: `rebuild drains a slot's node, renews its root (its card is written anew in place; a
slot without a card gets a fresh disk), waits until the node is Ready in the swarm
and its agent has nothing left to do, and gives it back the labels and the
availability that it had. Its former entry is gone then. When the services have
their replicas again that had them before, the next slot's turn comes.

What is on the node is lost, named volumes too; --keep saves what cluster.yaml
declares under keep:, and the node gets it back. A node that cannot be asked for it is
left alone then. What is lost is told first, and on a terminal it asks.

What was saved lies on the controller until its node has it back, and a day longer:
--kept shows it, and with --to fetches it, for zstd and tar.

The service on the controller does the work, and goes on with it when it was
restarted. ^C ends the looking on, not the work: --follow looks on again, and
--cancel ends the work where it may: a slot of whose root nothing is written yet stays
as it is. A slot that is at work is not begun twice. --continue takes the flags of what
it goes on with, unless others are said.

A node that cannot be reached any more cannot write its card: insert a new one, and
--wait sees it in; or boot the slot without a card (netboot enable).`,
		Example: `  hatchery rebuild p2 --on hammond         # and return when p2 is Ready
  hatchery rebuild --all --keep            # one after the other
  hatchery rebuild p1 p2 --max-unavailable 2
  hatchery rebuild p3 --wait               # somebody changes the card meanwhile
  hatchery rebuild --continue              # the slots that the last one did not get done
  hatchery rebuild --list
  hatchery rebuild --cancel rebuild-12
  hatchery rebuild --kept                  # what was saved, of which slots
  hatchery rebuild --kept p2 --to p2.tar.zst --on hammond
  hatchery rebuild --kept p2 --drop        # nobody gets it any more`,
		RunE: func(c *cobra.Command, args []string) error {
			if k.asked(c) {
				k.yes = f.yes
				return k.run(c, args)
			}
			return f.run(c, args)
		},
	}
	f.register(c)
	flags := c.Flags()
	flags.BoolVar(&f.request.All, "all", false, "every slot of the cluster")
	flags.BoolVar(&f.request.Wait, "wait", false, "renew nothing: wait until somebody has put a new card in")
	flags.BoolVar(&f.request.Keep, "keep", false, "keep what cluster.yaml declares under keep:")
	k.register(c)
	return c
}
