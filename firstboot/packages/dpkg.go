package packages

import (
	"context"
	"fmt"
	"strings"
)

// isConfigured says whether a status of dpkg's means that a package works,
// triggers of others or not.
func isConfigured(status string) bool {
	return status == "installed" || strings.HasPrefix(status, "triggers-")
}

func isUnpacked(status string) bool { return status == "unpacked" || status == "half-configured" }

// status gives a package's state, "" for one that dpkg does not know.
func (o Options) status(ctx context.Context, name string) (string, error) {
	out, code, err := o.output(ctx, "dpkg-query", "--show", "--showformat=${db:Status-Status}", name)
	if err != nil && code != 1 { // 1: there is none
		return "", fmt.Errorf("cannot read dpkg's database: %w", err)
	}
	return out, nil
}

// unpacked gives the packages that wait to be configured.
func (o Options) unpacked(ctx context.Context) ([]string, error) {
	out, _, err := o.output(ctx, "dpkg-query", "--show", `--showformat=${binary:Package}\t${db:Status-Status}\n`)
	if err != nil {
		return nil, fmt.Errorf("cannot read dpkg's database: %w", err)
	}
	var names []string
	for line := range strings.Lines(out) {
		name, status, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if isUnpacked(status) {
			names = append(names, name)
		}
	}
	return names, nil
}

// dpkg has dpkg configure something. A file that is there already, from an
// overlay, stays.
func (o Options) dpkg(ctx context.Context, args ...string) error {
	return o.runTelling(ctx, o.tellOfPackage, nil, "dpkg", append([]string{"--force-confdef", "--force-confold"}, args...)...)
}

// tellOfPackage tells which package dpkg has come to: one alone may take a
// minute. The words are those of dpkg's src/main/configure.c and trigproc.c.
func (o Options) tellOfPackage(line string) {
	for _, each := range []struct{ theirs, ours string }{
		{"Setting up ", "configuring "},
		{"Processing triggers for ", "running the triggers of "},
	} {
		if rest, found := strings.CutPrefix(line, each.theirs); found {
			name, _, _ := strings.Cut(rest, " ")
			o.Tell(each.ours + name)
		}
	}
}

// configureThese has packages configured, by name: triggers can take minutes,
// and wait unless a package needs one of them. What is configured already,
// before the power went, is left out: dpkg refuses it.
func (o Options) configureThese(ctx context.Context, names []string) error {
	var left []string
	for _, name := range names {
		status, err := o.status(ctx, name)
		if err != nil {
			return err
		}
		if isUnpacked(status) {
			left = append(left, name)
		}
	}
	return o.configureAll(ctx, left)
}

func (o Options) configureAll(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	err := o.dpkg(ctx, append([]string{"--no-triggers", "--configure"}, names...)...)
	if err == nil || ctx.Err() != nil {
		return err
	}
	o.Log.Info("trying again with triggers", "error", err)
	return o.dpkg(ctx, append([]string{"--configure"}, names...)...)
}

// configureDocker has all packages configured. One that Docker does not depend
// on may fail.
func (o Options) configureDocker(ctx context.Context) error {
	names, err := o.unpacked(ctx)
	if err != nil {
		return err
	}
	err = o.configureAll(ctx, names)
	if err == nil {
		return nil
	}
	if ctx.Err() == nil {
		if owner := o.dockersPackage(ctx); owner != "" {
			if status, serr := o.status(ctx, owner); serr == nil && isConfigured(status) {
				o.Log.Warn("a package that Docker does not need is not configured", "error", err)
				return nil
			}
		}
	}
	return fmt.Errorf("dpkg cannot configure the packages: %w", err)
}

// dockersPackage is the package that Docker's service belongs to, "" if none
// does.
func (o Options) dockersPackage(ctx context.Context) string {
	out, _, err := o.output(ctx, "dpkg-query", "--search", "*/systemd/system/docker.service")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(out, "\n")
	owner, _, found := strings.Cut(first, ": ")
	if !found {
		return ""
	}
	return owner
}
