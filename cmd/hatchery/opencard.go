package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder/drive"
)

// openCardName is the command that opens a card for another process.
const openCardName = "open-card"

// openerVariable names the socket of the process that opens cards, where one
// runs: that of `sudo hatchery flash`.
const openerVariable = "HATCHERY_OPENER"

// newOpenCard is not for people: flash runs it, with root's rights.
func newOpenCard() *cobra.Command {
	var via string
	c := &cobra.Command{
		Use:    openCardName,
		Short:  "Open a card for `hatchery flash`, which asks for it",
		Hidden: true,
		Args:   noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if via != "" {
				return relay(via, os.Stdin)
			}
			// An interrupt is for flash, which then closes what was opened.
			return drive.ServeOpener(context.WithoutCancel(c.Context()), os.Stdin)
		},
	}
	c.Flags().StringVar(&via, "via", "", "have it opened by the process that listens at a `SOCKET`")
	return c
}
