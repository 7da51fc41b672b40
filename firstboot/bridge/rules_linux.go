package bridge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/hearsay"
)

// toolTime is more than nft and iptables take on the slowest board, and than
// another one holds their lock.
const toolTime = time.Minute

// firewall sees to the table of our own: if it is not as it was when its file
// made it, the file makes it anew, in one transaction of nft's.
func (e *ensuring) firewall(ctx context.Context) (bool, error) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		return false, errors.New("nft is not installed: the slots do not reach the LAN, install nftables")
	}
	families := []string{"ip"}
	if e.node.Network == "cbridge" {
		families = append(families, "bridge")
	}
	list := func() (string, error) {
		var tables strings.Builder
		for _, family := range families {
			// Without the table nft fails; what else it may fail for, -f says.
			out, err := e.tool(ctx, nft, "list", "table", family, "hatchery")
			var failed *exec.ExitError
			if err != nil && !errors.As(err, &failed) {
				return "", err
			}
			tables.WriteString(out)
		}
		return tables.String(), nil
	}
	changed, err := e.restore("firewall", e.Firewall, list, func() error {
		_, err := e.tool(ctx, nft, "-f", e.Firewall)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("the packet filter's table is not made: %w", err)
	}
	if changed {
		e.repaired("made the packet filter's table %s hatchery of %s", strings.Join(families, " and "), e.Firewall)
	}
	return true, nil
}

// dockerUser sees to the slots' way through Docker's packet filter.
func (e *ensuring) dockerUser(ctx context.Context) (bool, error) {
	if !e.node.Docker {
		return true, nil
	}
	iptables, err := exec.LookPath("iptables")
	if err != nil { // before its packages are configured at the first boot
		return false, errors.New("iptables is not there (yet): Docker's rules are not checked")
	}
	var forward string // as it was listed last
	list := func() (string, error) {
		out, err := e.tool(ctx, iptables, "-w", "-S")
		forward = chain(out, "FORWARD")
		return chain(out, "DOCKER-USER"), err
	}
	changed, err := e.restore("docker-user", e.DockerUser, list, func() error {
		_, err := e.tool(ctx, e.DockerUser)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("the slots' way through Docker's packet filter is not checked: %w", err)
	}
	if changed {
		e.repaired("let the slots through Docker's packet filter (DOCKER-USER)")
	}
	// Docker itself puts the jump to the chain in place when it starts.
	// Whoever flushes FORWARD later takes it away, and the policy stays.
	var drops, jumps bool
	for line := range strings.Lines(forward) {
		drops = drops || strings.TrimSpace(line) == "-P FORWARD DROP"
		jumps = jumps || strings.TrimSpace(line) == "-A FORWARD -j DOCKER-USER"
	}
	if drops && !jumps {
		if _, err := e.tool(ctx, iptables, "-w", "-I", "FORWARD", "1", "-j", "DOCKER-USER"); err != nil {
			return false, fmt.Errorf("forwarding drops the slots' traffic: %w", err)
		}
		e.repaired("put DOCKER-USER back into FORWARD, which drops everything else")
	}
	return true, nil
}

// chain gives the lines of a listing that are about a chain.
func chain(listing, name string) string {
	var b strings.Builder
	for line := range strings.Lines(listing) {
		if f := strings.Fields(line); len(f) > 1 && (f[0] == "-P" || f[0] == "-N" || f[0] == "-A") && f[1] == name {
			b.WriteString(line)
		}
	}
	return b.String()
}

// restore runs do, which makes rules out of a file, unless they are what they
// were after the last time and the file is the same. It says whether the rules
// changed by it.
func (e *ensuring) restore(name, file string, list func() (string, error), do func() error) (changed bool, err error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return false, err
	}
	digest := fmt.Sprintf("%x\n", sha256.Sum256(content))
	before, err := list()
	if err != nil {
		return false, err
	}
	stamp := filepath.Join(e.RunDir, name+".made")
	made, err := os.ReadFile(stamp)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if bytes.Equal(made, []byte(digest+before)) {
		return false, nil
	}
	if err := do(); err != nil {
		return false, err
	}
	after, err := list()
	if err != nil {
		return false, err
	}
	if err := os.MkdirAll(e.RunDir, 0o755); err != nil {
		return false, err
	}
	if err := atomicfile.Write(stamp, strings.NewReader(digest+after), 0o600); err != nil {
		return false, err
	}
	return after != before, nil
}

// tool runs a program and gives what it printed. Its error has what it
// complained of.
func (e *ensuring) tool(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, toolTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(append([]string{filepath.Base(name)}, args...), " "), err, hearsay.Line(stderr.String(), 400))
	}
	return stdout.String(), nil
}
