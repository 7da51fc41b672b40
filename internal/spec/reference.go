package spec

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

const referenceHead = `# cluster.yaml

<!-- Generated from internal/spec by "go test ./internal/spec -update". Do not edit. -->

One file says what a cluster is. ` + "`hatchery init`" + ` writes a commented one, ` + "`hatchery check`" + ` says what is wrong with
it: everything at once, each problem with its line and column. Three lines are enough:

` + "```yaml" + `
name: homelab
base: raspios_lite_armhf
user: {authorized_keys: [~/.ssh/id_ed25519.pub]}
` + "```" + `

That is a controller named controller and four slots named p1 to p4, all with Docker.

- Unknown keys, and keys that are there twice, are errors.
- A key without a value (` + "`slots:`" + `) is as if it were not there.
- Relative paths are relative to the file's folder; ` + "`~`" + ` is your home folder.
- YAML's anchors, aliases and merges (` + "`<<`" + `) work. Tags do not, and a file is one document of at most 1 MiB.
- A key that is marked *not built yet* is checked, ` + "`hatchery check`" + ` warns of it, and ` + "`hatchery build`" + ` refuses it.

`

// WriteReference writes the reference page of cluster.yaml, docs/cluster-yaml.md.
func WriteReference(w io.Writer) error {
	var b bytes.Buffer
	b.WriteString(referenceHead)
	writeKeys(&b, "", new(Cluster).keys())
	_, err := w.Write(b.Bytes())
	return err
}

func writeKeys(b *bytes.Buffer, path string, keys []key) {
	for _, k := range keys {
		p := join(path, k.name)
		if path == "" {
			fmt.Fprintf(b, "## %s\n\n", p)
		} else {
			fmt.Fprintf(b, "### %s\n\n", p)
		}
		writeKey(b, k, k.name)
		writeKeys(b, p, k.keys)
		if k.sample != nil {
			entry := k.sample()
			below := join(p, k.placeholder)
			if k.each != nil {
				below = p + "[]"
			}
			if entry.keys == nil {
				fmt.Fprintf(b, "### %s\n\n", below)
				writeKey(b, entry, k.sampleName)
			}
			writeKeys(b, below, entry.keys)
		}
	}
}

func writeKey(b *bytes.Buffer, k key, name string) {
	b.WriteString(k.about)
	switch {
	case k.unbuilt != "" && k.builtFor != "":
		fmt.Fprintf(b, " *Not built yet, but for `%s`.*", k.builtFor)
	case k.unbuilt != "":
		b.WriteString(" *Not built yet.*")
	}
	b.WriteString("\n\n")
	fmt.Fprintf(b, "- Value: %s\n", k.valueKind())
	switch {
	case k.required != "":
		b.WriteString("- Required\n")
	case k.items != nil && k.initial != "":
		fmt.Fprintf(b, "- Default: `[%s]`\n", k.initial)
	case k.initial != "":
		fmt.Fprintf(b, "- Default: `%s`\n", k.initial)
	case k.elsewise != "":
		fmt.Fprintf(b, "- Default: %s\n", k.elsewise)
	}
	if k.example != "" {
		fmt.Fprintf(b, "- Example: `%s: %s`\n", name, k.example)
	}
	b.WriteString("\n")
}

// valueKind says in words what a key's value is.
func (k key) valueKind() string {
	switch {
	case len(k.choices) > 0:
		return k.syntax + " `" + strings.Join(k.choices, "`, `") + "`"
	case k.keys != nil && k.short != "":
		return "a section, or its `" + k.short + "` alone"
	case k.keys != nil:
		return "a section"
	case k.each != nil:
		return "a list of sections"
	case k.entry != nil && k.sample().keys != nil:
		return "a section for each " + k.placeholder
	case k.entry != nil:
		return "a mapping"
	}
	return k.syntax
}
