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
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"hatchery/controller"
	"hatchery/internal/nodefile"
	"hatchery/internal/spec"
	"hatchery/netboot/transfer"
)

// A station is where the commands of the controller are carried out: here, by
// the service's socket, or on a controller that is reached by ssh.
type station struct {
	settings *settings
	on       string // the controller's host name; "" is here
	out      string // the output folder, with the ssh_config
	socket   string
	node     string // what every machine of a cluster has; "" for nodefile.Path
}

// stationFlags are those of every command that is the controller's.
func (st *station) flags(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&st.on, "on", "", "do it on the controller `HOST`, by ssh, as out/ssh_config names it")
	flags.StringVarP(&st.out, "output", "o", "out", "with --on: the output folder, with its ssh_config")
	c.PreRunE = func(c *cobra.Command, _ []string) error {
		// An empty name is a variable that is not set, not this machine.
		if c.Flags().Changed("on") && !isHost(st.on) {
			return usageError{fmt.Errorf("%q is no host", st.on)}
		}
		return nil
	}
	flags.StringVar(&st.socket, "socket", controller.Socket, "the `PATH` of the service's socket on this machine")
}

// service is the service of this machine.
func (st *station) service() *controller.Client { return controller.Dial(st.socket) }

// run does a command: here, or the same command, with the given arguments, on
// the controller.
func (st *station) run(c *cobra.Command, args []string, here func(ctx context.Context) error) error {
	if st.on != "" {
		if st.settings.json {
			args = append(args, "--json")
		}
		return st.remote(c.Context(), c.OutOrStdout(), c.ErrOrStderr(), args)
	}
	err := here(c.Context())
	if errors.Is(err, controller.ErrNotServed) && !st.isNode() {
		return st.elsewhere("nobody answers on " + st.socket)
	}
	return err
}

// isNode says whether this machine is of a cluster: what does not run there is out of
// order, and what does not run on a workstation is asked of the wrong one.
func (st *station) isNode() bool {
	_, err := os.Stat(cmp.Or(st.node, nodefile.Path))
	return !errors.Is(err, fs.ErrNotExist)
}

// elsewhere is the mistake of whoever asks a machine that is no controller.
func (st *station) elsewhere(why string) error {
	host := "HOST"
	if cluster, err := spec.Load(st.settings.file); err == nil {
		host = cluster.Targets()[0].Hostname
	}
	return usageError{fmt.Errorf("name the controller with --on %s: this machine is none (%s)", host, why)}
}

// isHost says whether a name can be given to ssh, alone or as USER@HOST: it is
// no option, and has nothing in it that a shell would act on if an ssh_config
// puts it into a command (OpenSSH ssh.c, valid_hostname and valid_ruser; older
// ones do not look).
func isHost(name string) bool {
	user, host, both := strings.Cut(name, "@")
	if !both {
		user, host = "user", name
	}
	return user != "" && host != "" && user[0] != '-' && host[0] != '-' && !strings.ContainsFunc(name, func(r rune) bool {
		return !unicode.IsPrint(r) || strings.ContainsRune(" '`\"$\\;&<>|(){}", r)
	})
}

// remote runs hatchery on the controller, as root.
func (st *station) remote(ctx context.Context, stdout, stderr io.Writer, args []string) error {
	ssh := st.ssh(ctx, args, term.IsTerminal(int(os.Stdin.Fd())) && onTerminal(stdout))
	var said tail
	ssh.Stdin, ssh.Stdout, ssh.Stderr = os.Stdin, stdout, io.MultiWriter(stderr, &said)
	return st.ended(ssh.Run(), said.String())
}

// talk runs hatchery on the controller, as root, and has a conversation with it
// by its stdin and stdout. What it says on stderr is shown where it did not say why
// it ends in the conversation.
func (st *station) talk(ctx context.Context, stderr io.Writer, args []string, conversation func(io.ReadWriter) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ssh := st.ssh(ctx, args, false)
	var said tail
	ssh.Stderr = &said
	in, err := ssh.StdinPipe()
	if err != nil {
		return err
	}
	out, err := ssh.StdoutPipe()
	if err != nil {
		return err
	}
	if err := ssh.Start(); err != nil {
		return st.ended(err, "")
	}
	spoke := conversation(struct {
		io.Reader
		io.Writer
	}{out, in})
	in.Close()
	if spoke != nil && ctx.Err() == nil {
		// Who hangs up first has said why; who hangs is not waited for.
		time.AfterFunc(5*time.Second, cancel)
	}
	io.Copy(io.Discard, out)
	ended := st.ended(ssh.Wait(), said.String())
	var told *transfer.RemoteError
	if errors.As(spoke, &told) {
		return spoke
	}
	stderr.Write(said.Bytes())
	if ended != nil {
		return ended
	}
	return spoke
}

// ssh is the command that runs hatchery on the controller, as root.
func (st *station) ssh(ctx context.Context, args []string, terminal bool) *exec.Cmd {
	var command []string
	if config := st.config(); isFile(config) {
		command = append(command, "-F", config)
	}
	// sudo can ask for a password only on a terminal, which makes line ends of
	// its own: no place for a backup.
	sudo := []string{"sudo", "-n"}
	if terminal {
		command, sudo = append(command, "-t"), []string{"sudo"}
	}
	command = append(append(append(command, st.on, "--"), sudo...), "hatchery")
	for _, arg := range args {
		command = append(command, quoteShell(arg))
	}
	return exec.CommandContext(ctx, "ssh", command...)
}

// config is the ssh_config of the last build.
func (st *station) config() string { return filepath.Join(st.out, "ssh_config") }

// ended is how ssh ended, and what it said, as an error.
func (st *station) ended(err error, said string) error {
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 255:
		if _, err := os.Stat(st.config()); err != nil {
			return fmt.Errorf("cannot reach %s by ssh: there is no %s here, so ssh went by your own configuration; run this beside cluster.yaml, or name the output folder with -o", st.on, st.config())
		}
		_, host, user := strings.Cut(st.on, "@")
		if !user {
			host = st.on
		}
		if known := st.hosts(); len(known) > 0 && !slices.Contains(known, host) {
			if most := 12; len(known) > most {
				known = append(known[:most], "others")
			}
			return fmt.Errorf("cannot reach %s by ssh (what ssh says stands above): %s knows %s, and no %s", st.on, st.config(), enumerate(known), host)
		}
		return fmt.Errorf("cannot reach %s by ssh (what ssh says stands above): is it up, and is %s of this cluster's last build?", st.on, st.config())
	case errors.As(err, &exit) && exit.ExitCode() == exitUsage:
		return usageError{errReported}
	case errors.As(err, &exit) && strings.Contains(said, "sudo: "):
		return fmt.Errorf("sudo on %s wants a password: run this on a terminal, or build the images with `user: {sudo: …}` as docs/cluster-yaml.md has it", st.on)
	case errors.As(err, &exit):
		return errReported
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("there is no ssh on this machine: install OpenSSH's client")
	}
	return err
}

// hosts are those that the ssh_config of the last build names.
func (st *station) hosts() (names []string) {
	config, err := os.ReadFile(st.config())
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(config)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Host" && !strings.ContainsAny(line, "*?!") {
			names = append(names, f[1:]...)
		}
	}
	return names
}

// quoteShell makes one word of a text, for the shell at the other end.
func quoteShell(text string) string {
	quoted := []byte{'\''}
	for _, b := range []byte(text) {
		if b == '\'' {
			quoted = append(quoted, `'\''`...)
		} else {
			quoted = append(quoted, b)
		}
	}
	return string(append(quoted, '\''))
}

// A tail keeps the end of what is written to it.
type tail struct{ bytes.Buffer }

// Write keeps the last few kilobytes.
func (t *tail) Write(p []byte) (int, error) {
	const most = 4 << 10
	t.Buffer.Write(p)
	if t.Len() > most {
		t.Next(t.Len() - most)
	}
	return len(p), nil
}
