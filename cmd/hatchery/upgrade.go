package main

import (
	"github.com/spf13/cobra"

	"hatchery/controller/operation"
)

func newUpgrade(s *settings) *cobra.Command {
	f := &operationFlags{station: &station{settings: s}, request: operation.Request{Kind: operation.Upgrade}, asks: true}
	c := &cobra.Command{
		Use:   "upgrade [SLOT...]",
		Short: "Roll what was pushed over the cluster, node by node",
		Long: `upgrade gives slots the roots that were pushed for them: those that are named, or
all whose root is another one than they have. One at a time is drained, renewed and
waited for, as rebuild does it; what cluster.yaml declares under keep: is saved
before, and the node gets it back.

After each slot the services must have the replicas again that they had before.
Where they do not, or where a node does not come up, the upgrade stops, that slot
goes back to the root that it had, and it says why. --undo has slots go back later;
that saves what is kept as well, and is not begun where a node cannot be asked for it,
unless you say --now: then the node gets what was kept when it was upgraded, and what
was written since is lost. A slot without a card gets back the disk that it had.

It tells first what is lost and what is kept, and asks; --yes does not ask, and
--plan only tells.`,
		Example: `  hatchery push --on hammond && hatchery upgrade --on hammond
  hatchery upgrade --plan
  hatchery upgrade p1 --yes
  hatchery upgrade --undo                  # what the last upgrade did
  hatchery upgrade --undo p1 --now         # though p1 cannot be asked for what it keeps
  hatchery upgrade --continue --yes        # the slots that it did not get done`,
		RunE: f.run,
	}
	f.register(c)
	flags := c.Flags()
	flags.BoolVar(&f.undo, "undo", false, "go back: the slots that are named, or those of the last upgrade")
	flags.BoolVar(&f.plan, "plan", false, "tell what would be done, and do nothing")
	return c
}
