package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"

	"hatchery/controller/serving"
	"hatchery/firstboot/systemd"
)

func newServe(*settings) *cobra.Command {
	var options serving.Options
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the cluster's nodes (on the controller, by systemd)",
		Long: `serve is the controller's service: it tells the nodes the time, lets them into
the swarm, labels them, removes what a rebuilt node left behind, and backs the
swarm up to the nodes. hatchery.service runs it; docs/enrolment.md tells what it
answers.`,
		Example: `  systemctl status hatchery
  journalctl -u hatchery -f`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			options.Log = systemd.Logger(c.ErrOrStderr())
			err := serving.Run(c.Context(), options)
			if errors.Is(err, fs.ErrNotExist) {
				return usageError{fmt.Errorf("%w (serve runs on a controller that hatchery made, whose image has that file)", err)}
			}
			return err
		},
	}
	flags := c.Flags()
	flags.StringVar(&options.ConfigDir, "config", "", "the folder of node.json and identity/ (default /etc/hatchery)")
	flags.StringVar(&options.StateDir, "state", "", "the folder of what is kept (default /var/lib/hatchery)")
	flags.StringVar(&options.Socket, "socket", "", "where the command line finds it (default /run/hatchery/hatchery.sock)")
	flags.StringVar(&options.DockerHost, "docker-host", "", "Docker's socket (default unix:///run/docker.sock)")
	flags.StringVar(&options.DockerRoot, "docker-root", "", "Docker's folder (default /var/lib/docker)")
	return c
}
