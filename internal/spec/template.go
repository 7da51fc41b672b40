package spec

import (
	"bytes"
	"fmt"
	"strings"
)

// DefaultImage is the image in a file that [Template] writes, unless told
// otherwise: the one of Raspberry Pi OS that every model runs, without a
// desktop.
const DefaultImage = "raspios_lite_armhf"

// TemplateData is what is known when a cluster.yaml is begun. What is empty
// gets an example or the default.
type TemplateData struct {
	Name     string
	Image    string   // name, file or URL
	SHA256   string   // of the image
	Keys     []string // files of public keys, or lines; without any the file asks for one
	Timezone string
}

// Template writes a cluster.yaml to start from: every key with what it means,
// those that a cluster needs filled in, all others commented out with their
// examples.
func Template(data TemplateData) []byte {
	image := data.Image
	if image == "" {
		image = DefaultImage
	}
	name := data.Name
	if name == "" {
		name = "homelab"
	}
	keys := make([]string, len(data.Keys))
	for i, k := range data.Keys {
		keys[i] = yamlText(k)
	}
	t := template{live: map[string]string{
		"name":                 yamlText(name),
		"base.image":           yamlText(image),
		"user.authorized_keys": "[" + strings.Join(keys, ", ") + "]",
	}}
	if data.SHA256 != "" {
		t.live["base.sha256"] = yamlText(data.SHA256)
	}
	if data.Timezone != "" {
		t.live["timezone"] = yamlText(data.Timezone)
	}
	t.b.WriteString("# A cluster for hatchery. `hatchery check` says whether it is right, `hatchery build` builds it.\n" +
		"# What is commented out shows an example; remove the # before a key to use it.\n")
	for _, k := range new(Cluster).keys() {
		if k.apart {
			continue
		}
		t.b.WriteString("\n")
		t.key(k, "", margin{})
	}
	return t.b.Bytes()
}

// A template is a file being written. Prose is "# text"; a key that is
// commented out has the # directly before it or before its indentation, so
// that removing the # is all there is to do.
type template struct {
	b    bytes.Buffer
	live map[string]string // the values of keys that are not commented out
}

// A margin is what lines begin with: the indentation, and in a part that is
// commented out the # before the part of it that is inside.
type margin struct {
	outer, inner string
	off          bool
}

func (m margin) String() string {
	if m.off {
		return m.outer + "#" + m.inner
	}
	return m.outer
}

func (m margin) deeper(by string) margin {
	if m.off {
		m.inner += by
	} else {
		m.outer += by
	}
	return m
}

func (t *template) key(k key, path string, m margin) {
	path = join(path, k.name)
	for _, line := range wrap(k.about+t.remark(k), 96-len(m.String())) {
		fmt.Fprintf(&t.b, "%s# %s\n", m, line)
	}
	value, live := t.live[path]
	if !live {
		value = k.example
		m.off = m.off || !t.anyLive(path)
	}
	switch {
	case k.keys != nil:
		fmt.Fprintf(&t.b, "%s%s:\n", m, k.name)
		for _, sub := range k.keys {
			t.key(sub, path, m.deeper("  "))
		}
	case k.sample != nil:
		fmt.Fprintf(&t.b, "%s%s:\n", m, k.name)
		entry := k.sample()
		if entry.keys == nil {
			fmt.Fprintf(&t.b, "%s%s: %s\n", m.deeper("  "), k.sampleName, entry.example)
			return
		}
		if k.sampleName == "p2" {
			fmt.Fprintf(&t.b, "%sp1:\n", m.deeper("  ")) // as bare as a slot can be
		}
		fmt.Fprintf(&t.b, "%s%s:\n", m.deeper("  "), k.sampleName)
		for _, sub := range entry.keys {
			t.key(sub, join(path, k.sampleName), m.deeper("    "))
		}
	default:
		fmt.Fprintf(&t.b, "%s%s: %s\n", m, k.name, value)
	}
}

func (t *template) anyLive(path string) bool {
	for live := range t.live {
		if strings.HasPrefix(live, path+".") {
			return true
		}
	}
	return false
}

// remark adds to a key's meaning what the reference has in lines of its own.
func (t *template) remark(k key) string {
	remark := ""
	if len(k.choices) > 0 {
		remark += " One of " + strings.Join(k.choices, ", ") + "."
	}
	switch {
	case k.initial != "":
		remark += " Default: " + k.initial + "."
	case k.elsewise != "":
		remark += " Default: " + k.elsewise + "."
	}
	switch {
	case k.unbuilt != "" && k.builtFor != "":
		remark += " Not built yet, but for " + k.builtFor + "."
	case k.unbuilt != "":
		remark += " Not built yet."
	}
	return remark
}

// wrap breaks text into lines of at most width bytes where words allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(strings.ReplaceAll(text, "`", "")) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// yamlText writes a text as a YAML value, in quotes unless it is as plain as
// can be.
func yamlText(s string) string {
	plain := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./~+-") == ""
	switch {
	case !plain, strings.HasPrefix(s, "-"), s == "~", s == "true", s == "false", s == "null":
		return `"` + yamlEscapes.Replace(s) + `"`
	}
	return s
}

var yamlEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\r", `\r`, "\t", `\t`)
