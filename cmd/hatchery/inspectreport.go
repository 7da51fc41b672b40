package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"hatchery/imagebuilder"
)

// report says what an image is.
func (i *inspection) report(image *imagebuilder.OpenedImage) error {
	found, err := imagebuilder.Inspect(i.command.Context(), image.Image)
	if err != nil {
		return fmt.Errorf("cannot inspect %s: %w", image.Name, err)
	}
	found.Image = image.Name
	if i.json {
		return printJSON(i.out(), found)
	}
	for _, w := range found.Warnings {
		fmt.Fprintln(i.command.ErrOrStderr(), "hatchery: warning:", shown(w))
	}
	printReport(i.out(), found)
	return nil
}

func printReport(w io.Writer, in *imagebuilder.Inspection) {
	table := map[string]string{"mbr": "an MBR partition table", "gpt": "a GUID partition table", "": "no partition table"}[in.Table.Kind]
	if in.Table.DiskID != "" {
		table += ", disk id " + in.Table.DiskID
	}
	fmt.Fprintf(w, "%s: %s (%d bytes), %s\n\n", in.Image, bytesText(in.Size), in.Size, table)
	printPartitions(w, in)

	facts := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fact := func(name, format string, args ...any) {
		fmt.Fprintf(facts, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	fmt.Fprintln(w)
	if r := in.Release; r != nil {
		name := r.Name
		if name == "" {
			name = strings.TrimSpace(r.ID + " " + r.Version)
		}
		if r.Architecture != "" {
			name = strings.TrimSpace(name + ", " + r.Architecture)
		}
		fact("release", "%s", shown(name))
	}
	if len(in.Kernels) > 0 {
		fact("kernels", "%s", shown(strings.Join(in.Kernels, ", ")))
	}
	if f := in.FirstBoot; f != nil {
		fact("machine id", "%s", map[string]string{
			"set": "set", "missing": "missing: made at the next boot", "empty": "empty: made at the next boot",
			"uninitialized": "uninitialized: the next boot is the first",
		}[f.MachineID])
		if len(f.Steps) == 0 {
			fact("first boot", "nothing of the stock machinery waits")
		}
		for n, step := range f.Steps {
			fact([]string{"first boot", ""}[min(n, 1)], "%s", shown(step))
		}
	}
	if n := in.Hatchery; n != nil {
		printNode(fact, n)
	} else if in.Release != nil {
		fact("hatchery", "did not make this image")
	}
	facts.Flush()
	if len(in.Private) > 0 {
		fmt.Fprintln(w, "\nThis image holds private keys and passwords. Whoever gets it can pass for the machine and its users:")
		private := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
		for _, p := range in.Private {
			fmt.Fprintf(private, "  %s\t%s\n", shown(p.Path), shown(p.What))
		}
		private.Flush()
	}
}

func printPartitions(w io.Writer, in *imagebuilder.Inspection) {
	mounts := map[int]string{}
	for _, m := range in.Mounts {
		mounts[m.Partition] = m.Path
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NO\tSTART\tSIZE\tTYPE\tFILE SYSTEM\tLABEL\tUSED\tFREE\tMOUNTED AT")
	for _, p := range in.Partitions {
		kind := p.TypeName
		if kind == "" {
			kind = p.Type
		}
		used, free := "", ""
		if p.Used > 0 || p.Free > 0 {
			used, free = bytesText(p.Used), bytesText(p.Free)
		}
		label := p.FSLabel
		if label == "" {
			label = p.Label
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			p.Number, bytesText(p.Start), bytesText(p.Size), shown(kind), dash(p.FileSystem), dash(label), dash(used), dash(free), dash(mounts[p.Number]))
	}
	t.Flush()
	for _, p := range in.Partitions {
		if len(p.Features) > 0 {
			fmt.Fprintf(w, "features of %d: %s\n", p.Number, strings.Join(p.Features, " "))
		}
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return shown(s)
}

func printNode(fact func(name, format string, args ...any), n *imagebuilder.InspectedNode) {
	who := fmt.Sprintf("%s of the cluster %s, host name %s", n.Name, n.Cluster, n.Hostname)
	if n.Model != "" {
		who += ", model " + n.Model
	}
	if n.Address != "" {
		who += ", " + n.Address
	}
	fact("hatchery", "%s", shown(who))
	if c := n.Certificate; c != nil {
		state := "valid"
		if !c.Valid {
			state = "not valid: " + c.Problem
		}
		fact("certificate", "%s", shown(fmt.Sprintf("slot %d, generation %d, %s to %s, %s", c.Slot, c.Generation, day(c.NotBefore), day(c.NotAfter), state)))
		if c.CA != "" {
			fact("cluster CA", "SHA-256 %s", c.CA)
		}
	}
	if n.HostKey != "" {
		fact("SSH host key", "%s", n.HostKey)
	}
	replaced := 0
	for _, f := range n.Files {
		if f.Package != "" {
			replaced++
		}
	}
	fact("built", "%s: %s of that time, %d of them in place of a package's (--json lists them)",
		n.Epoch.UTC().Format(time.RFC3339), count(len(n.Files), "file"), replaced)
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02") }

// bytesText is a number of bytes as people say it.
func bytesText(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1024 && unit < len(units)-1 {
		value, unit = value/1024, unit+1
	}
	text := strings.TrimSuffix(fmt.Sprintf("%.1f", value), ".0")
	return fmt.Sprintf("%s %ciB", text, units[unit])
}
