package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hatchery/controller/workload"
	"hatchery/imagebuilder"
	"hatchery/internal/declared"
	"hatchery/internal/spec"
)

func newSecrets(s *settings) *cobra.Command {
	c := &cobra.Command{
		Use:   "secrets",
		Short: "Bring secrets to the cluster without an image",
		Long: `secrets is about the secrets that cluster.yaml declares, and their content
(docs/workloads.md).`,
		Example: `  hatchery secrets push --on hammond                            # all whose files are here
  hatchery secrets push cf_token --from ./cf_token --on hammond`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSecretsPush(s))
	return c
}

// bringing is one `hatchery secrets push`.
type bringing struct {
	*station
	from   string
	config bool
	wait   time.Duration
}

func newSecretsPush(s *settings) *cobra.Command {
	b := &bringing{station: &station{settings: s}}
	c := &cobra.Command{
		Use:   "push [NAME...]",
		Short: "Hand the content of secrets to the swarm, over ssh",
		Long: `push hands the content of secrets to the swarm: of those that are named, or of all
that cluster.yaml has from a file or a variable. It goes over ssh and through the
controller's service into the swarm, which keeps it encrypted; it is in no image and no
argument of a command. The secret has to be declared.

One that the swarm has with another content is made anew, under another version, and
the services that use it are updated: that is how a secret is changed.

A secret that is ` + "`pushed`" + ` in cluster.yaml comes from --from: a file, or stdin. All of
it counts, a line end at its end too.`,
		Example: `  hatchery secrets push --on hammond                              # all whose files are here
  hatchery secrets push cf_token --from ./cf_token --on hammond
  printf %s "$TOKEN" | hatchery secrets push cf_token --from - --on hammond
  hatchery secrets push site --config --from site.conf --on hammond`,
		Args: func(_ *cobra.Command, names []string) error {
			for _, name := range names {
				if name == "" || strings.HasPrefix(name, "-") {
					return usageError{fmt.Errorf("%q is no name of a secret", name)}
				}
			}
			return nil
		},
		RunE: func(c *cobra.Command, names []string) error {
			contents, err := b.contents(c, names)
			if err != nil {
				return err
			}
			if b.on == "" {
				return b.station.run(c, nil, func(ctx context.Context) error { return b.here(ctx, c, contents) })
			}
			return b.there(c, contents)
		},
	}
	b.flags(c)
	flags := c.Flags()
	flags.StringVar(&b.from, "from", "", "where the content of the one that is named comes from: `FILE`, or stdin for \"-\"")
	flags.BoolVar(&b.config, "config", false, "it is a config")
	waitFlag(c, &b.wait)
	return c
}

// contents reads what is brought, by name.
func (b *bringing) contents(c *cobra.Command, names []string) (map[string][]byte, error) {
	most := declared.MaxSecret
	if b.config {
		most = declared.MaxConfig
	}
	switch {
	case b.from != "" && len(names) != 1:
		return nil, usageError{errors.New("--from is for one secret: name it")}
	case b.from != "":
		if b.on != "" {
			// What cannot be read here the controller judges.
			if cluster, err := spec.Load(b.settings.file); err == nil {
				if err := imagebuilder.CheckDeclared(c.Context(), cluster, b.config, names[0]); err != nil {
					return nil, err
				}
			}
		}
		content, err := contentFrom(c, b.from, most)
		if err != nil {
			return nil, err
		}
		return map[string][]byte{names[0]: content}, nil
	case b.config:
		return nil, usageError{errors.New("say with --from where the config comes from: those that cluster.yaml has go with `hatchery workloads apply`")}
	case b.on == "" && len(names) == 0:
		return nil, usageError{errors.New("name the controller with --on; on the controller itself, name the secret, and --from where it comes from")}
	}
	cluster, err := spec.Load(b.settings.file)
	if err != nil {
		return nil, err
	}
	contents, err := imagebuilder.ReadSecrets(c.Context(), cluster, names)
	if err == nil && len(contents) == 0 {
		err = usageError{errors.New("cluster.yaml has no secret from a file or a variable: name one, and --from where it comes from")}
	}
	return contents, err
}

// here hands the contents to the service of this machine.
func (b *bringing) here(ctx context.Context, c *cobra.Command, contents map[string][]byte) error {
	client := workload.Client{Caller: b.service()}
	push := client.PushSecret
	if b.config {
		push = client.PushConfig
	}
	var status *workload.Status
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		var err error
		if status, err = push(ctx, name, contents[name]); err != nil {
			return inWorkloadWords(err)
		}
		if !b.settings.json {
			printLine(c.OutOrStdout(), "%s: the controller has it.", name)
		}
	}
	if b.wait > 0 || b.settings.json {
		return showApplied(ctx, c, b.settings, client, status, b.wait)
	}
	return nil
}

// there hands the contents to a controller that is reached by ssh, each by itself. The
// last one is waited for.
func (b *bringing) there(c *cobra.Command, contents map[string][]byte) error {
	names := slices.Sorted(maps.Keys(contents))
	for i, name := range names {
		args := []string{"secrets", "push", name, "--from=-"}
		if b.config {
			args = append(args, "--config")
		}
		last := i == len(names)-1
		if last && b.wait > 0 {
			args = append(args, "--wait="+b.wait.String())
		}
		if b.settings.json {
			args = append(args, "--json")
		}
		if err := b.feed(c, args, contents[name]); err != nil {
			return err
		}
	}
	return nil
}
