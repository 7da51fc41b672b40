package main

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"hatchery/controller"
	"hatchery/internal/clusterctrl"
)

func newRevoke(s *settings) *cobra.Command {
	st := &station{settings: s}
	c := &cobra.Command{
		Use:   "revoke SLOT",
		Short: "Shut out a slot's present card: it was lost, or copied",
		Long: `revoke refuses the present certificate of a slot from now on, removes its node
from the swarm, and rotates the join token. An image that is built again for the
slot without --renew has the same certificate, and is refused too.

It is done at once, on the controller; the slot comes back with the next
generation: hatchery build SLOT --renew, and flash that.`,
		Example: `  hatchery revoke p2                  # on the controller
  hatchery revoke p2 --on hammond     # from the workstation
  hatchery build p2 --renew           # then: a new key for the slot`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("one slot at a time: `hatchery revoke p2`")}
			}
			if _, err := clusterctrl.ParseSlot(args[0]); err != nil {
				return usageError{err}
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return st.run(c, []string{"revoke", args[0]}, func(ctx context.Context) error {
				number, err := clusterctrl.ParseSlot(args[0])
				if err != nil {
					return usageError{err}
				}
				revoked, err := st.service().Revoke(ctx, number)
				if err != nil {
					return err
				}
				if s.json {
					return printJSON(c.OutOrStdout(), revoked)
				}
				printRevocation(c.OutOrStdout(), revoked)
				return nil
			})
		},
	}
	st.flags(c)
	return c
}

func printRevocation(w io.Writer, r *controller.Revocation) {
	printLine(w, "%s: certificates below generation %d are refused from now on.", r.Name, r.MinGeneration)
	if len(r.Removed) > 0 {
		printLine(w, "Removed from the swarm: %s.", strings.Join(r.Removed, ", "))
	}
	if r.Rotated {
		printLine(w, "The join token was rotated.")
	}
	if r.Pending != "" {
		printLine(w, "Not yet: %s", r.Pending)
	}
	printLine(w, "Next: `%s` on the workstation, and flash it.", r.Next)
}
