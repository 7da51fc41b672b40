package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hatchery/imagebuilder/adoption"
	"hatchery/internal/atomicfile"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/spec"
)

// An importing is one `hatchery import`.
type importing struct {
	settings  *settings
	inventory string
	on        string
	output    string
	name      string
	roles     adoption.Roles
	sudo      bool
	force     bool
}

func newImport(s *settings) *cobra.Command {
	i := &importing{settings: s}
	c := &cobra.Command{
		Use:   "import",
		Short: "Make a cluster file of an Ansible inventory or of a running cluster",
		Long: `import writes a cluster file for a cluster that was set up by other means.

With --inventory it reads an Ansible inventory, INI or YAML, with ClusterCTRL's groups:
clusterctrl_server for the controller, clusterctrl_nodes for the Zeros (others are named
with --controller and --nodes).

With --on it looks at a running controller, a manager of a Docker Swarm, by ssh with your
own ssh configuration: host names, labels, slots and boards, networks, configs, and all
stacks, which are written as stack files beside the cluster file. Nothing is written
there, and no root is needed; the user has to be one who may ask Docker (or: --sudo).

What cannot be known stands in the file as a comment that says what to do, and so does
what was concluded from an order or a name. The content of secrets cannot be read out of
a swarm: they are "pushed" (docs/import.md). No file that exists is overwritten without
--force.`,
		Example: `  hatchery import --inventory inventory.ini
  hatchery import --inventory hosts.yml --controller pi_head --nodes pi_zeros -o lab/cluster.yaml
  hatchery import --on pi@hammond.local --name homelab`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return i.run(c) },
	}
	flags := c.Flags()
	flags.StringVar(&i.inventory, "inventory", "", "the Ansible inventory's `FILE`")
	flags.StringVar(&i.on, "on", "", "the running controller's `HOST`, as ssh knows it")
	flags.StringVarP(&i.output, "output", "o", "", "the cluster `FILE` to write (default: that of -f, cluster.yaml)")
	flags.StringVar(&i.name, "name", "", "the cluster's name")
	flags.StringVar(&i.roles.Controller, "controller", "", "with --inventory: the group or host that is the controller")
	flags.StringVar(&i.roles.Nodes, "nodes", "", "with --inventory: the group that the Zeros are in")
	flags.BoolVar(&i.sudo, "sudo", false, "with --on: ask Docker by sudo, where the user may without a password")
	flags.BoolVar(&i.force, "force", false, "overwrite files that exist")
	return c
}

func (i *importing) run(c *cobra.Command) error {
	switch {
	case (i.inventory == "") == (i.on == ""):
		return usageError{errors.New("name either an inventory with --inventory, or a running controller with --on")}
	case i.on != "" && !isHost(i.on):
		return usageError{fmt.Errorf("%q is no host", i.on)}
	case i.on != "" && i.roles != (adoption.Roles{}):
		return usageError{errors.New("--controller and --nodes are for --inventory")}
	case i.inventory != "" && i.sudo:
		return usageError{errors.New("--sudo is for --on")}
	}
	file := cmp.Or(i.output, i.settings.file)
	cluster, err := i.learn(c)
	if err != nil {
		return err
	}
	if i.name != "" {
		cluster.Call(i.name)
	}
	if len(cluster.Keys) == 0 {
		cluster.Keys = publicKeys(file)
	}
	content, open, err := cluster.Write(file)
	if err != nil {
		return err
	}
	if i.name != "" && slices.ContainsFunc(open, func(p spec.Problem) bool { return p.Path == "name" }) {
		return usageError{fmt.Errorf("%q is no name of a cluster: lower-case letters, digits and inner hyphens, at most 63", i.name)}
	}
	written, err := i.write(file, content, cluster.Files())
	if err != nil {
		return err
	}
	return i.report(c, file, cluster, written)
}

// learn asks the inventory or the controller.
func (i *importing) learn(c *cobra.Command) (*adoption.Cluster, error) {
	if i.inventory != "" {
		inventory, err := adoption.ReadInventory(i.inventory)
		if err != nil {
			return nil, err
		}
		return inventory.Cluster(i.roles)
	}
	cluster, err := adoption.Running(c.Context(), i.ssh(c.ErrOrStderr()), "the running controller "+i.on, i.sudo)
	switch {
	case errors.Is(err, adoption.ErrNoDocker) && !i.sudo:
		return nil, fmt.Errorf("%s: %w: is the user that ssh logs in as in the group docker? Else, try --sudo", i.on, err)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", i.on, err)
	}
	return cluster, nil
}

// ssh runs scripts on the controller, as the user that ssh logs in as.
func (i *importing) ssh(stderr io.Writer) adoption.Shell {
	return func(ctx context.Context, script io.Reader) ([]byte, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		ssh := exec.CommandContext(ctx, "ssh", i.on, "--", "sh", "-s")
		answer := &limited{most: adoption.MaxAnswer + 1, full: cancel}
		ssh.Stdin, ssh.Stdout, ssh.Stderr = script, answer, stderr
		err := ssh.Run()
		var exit *exec.ExitError
		switch {
		case answer.Len() >= answer.most: // whatever became of ssh
			return answer.Bytes(), nil
		case errors.As(err, &exit) && exit.ExitCode() == 255:
			return nil, errors.New("it cannot be reached by ssh (what ssh says stands above): does `ssh " + i.on + "` work?")
		case errors.Is(err, exec.ErrNotFound):
			return nil, errors.New("there is no ssh on this machine: install OpenSSH's client")
		case err != nil:
			return nil, fmt.Errorf("its shell: %w", err)
		}
		return answer.Bytes(), nil
	}
}

// limited keeps what is written to it up to a limit, and says when that is reached.
type limited struct {
	bytes.Buffer
	most int
	full func()
}

func (l *limited) Write(p []byte) (int, error) {
	if l.Len()+len(p) >= l.most {
		l.Buffer.Write(p[:l.most-l.Len()])
		l.full()
		return 0, io.ErrShortWrite
	}
	return l.Buffer.Write(p)
}

// write writes the cluster file and what belongs beside it: all, or, where one of
// them is in the way, none. They may hold passwords: stacks have what their services'
// environment has.
func (i *importing) write(file string, content []byte, beside []adoption.File) ([]string, error) {
	type output struct {
		path    string
		content []byte
		mode    os.FileMode
	}
	var all []output
	for _, f := range beside {
		all = append(all, output{filepath.Join(filepath.Dir(file), filepath.FromSlash(f.Path)), f.Content, 0o600})
	}
	all = append(all, output{file, content, 0o644}) // last: with it there, all is
	var inTheWay []string
	for _, o := range all {
		info, err := os.Lstat(o.path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case !i.force, !info.Mode().IsRegular():
			inTheWay = append(inTheWay, o.path)
		}
	}
	if len(inTheWay) > 0 {
		return nil, usageError{fmt.Errorf("nothing was written, since there is already: %s; name another cluster file with -o, in a folder of its own, or overwrite files with --force", strings.Join(inTheWay, ", "))}
	}
	var written []string
	for _, o := range all {
		if err := os.MkdirAll(filepath.Dir(o.path), 0o755); err != nil {
			return written, err
		}
		put := func() error { return atomicfile.CreateOnce(o.path, o.content, o.mode) }
		if i.force {
			put = func() error { return atomicfile.WriteBytes(o.path, o.content, o.mode) }
		}
		if err := put(); err != nil {
			return written, err
		}
		written = append(written, o.path)
	}
	return written, nil
}

// report says what was written, and what is left to do.
func (i *importing) report(c *cobra.Command, file string, cluster *adoption.Cluster, written []string) error {
	_, err := spec.Load(file)
	var open *spec.Errors
	if err != nil && !errors.As(err, &open) {
		return err
	}
	if i.settings.json {
		type slot struct {
			Name     string `json:"name"`
			Hostname string `json:"hostname"`
		}
		report := struct {
			File       string          `json:"file"`
			Written    []string        `json:"written"`
			Valid      bool            `json:"valid"`
			Controller string          `json:"controller"`
			Slots      []slot          `json:"slots"`
			Stacks     []string        `json:"stacks"`
			Notes      []adoption.Note `json:"notes"`
			Problems   []problem       `json:"problems"`
		}{File: file, Written: written, Valid: err == nil, Controller: cluster.Controller.Hostname, Slots: []slot{}, Stacks: []string{}, Notes: append([]adoption.Note{}, cluster.Notes()...), Problems: problemsOf(open)}
		for _, s := range cluster.Slots {
			report.Slots = append(report.Slots, slot{clusterctrl.SlotName(s.Number), s.Hostname})
		}
		for _, s := range cluster.Stacks {
			report.Stacks = append(report.Stacks, s.Name)
		}
		return printJSON(c.OutOrStdout(), report)
	}
	out := c.OutOrStdout()
	for _, path := range written {
		fmt.Fprintf(out, "Wrote %s.\n", harmless(path))
	}
	fmt.Fprintf(out, "  %-10s  %s\n", spec.ControllerName, harmless(cluster.Controller.Hostname))
	for _, s := range cluster.Slots {
		fmt.Fprintf(out, "  %-10s  %s\n", clusterctrl.SlotName(s.Number), harmless(s.Hostname))
	}
	if len(cluster.Notes()) > 0 {
		fmt.Fprintln(out, "To be looked at (the file has it as comments):")
	}
	for _, n := range cluster.Notes() {
		place := ""
		if n.Path != "" {
			place = n.Path + ": "
		}
		fmt.Fprintf(out, "  - %s\n", harmless(place+n.Message))
	}
	if open != nil {
		fmt.Fprintln(out, "To be filled in:")
		fmt.Fprintln(out, harmless(open.Error()))
	}
	command := "hatchery check"
	if file != "cluster.yaml" {
		command += " -f " + file
	}
	fmt.Fprintf(out, "Next: `%s`.\n", harmless(command))
	return nil
}
