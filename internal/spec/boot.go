package spec

import (
	"regexp"
	"strings"
)

// ownWords are the words of the kernel's command line that hatchery sets, and
// such as would undo them.
var ownWords = map[string]string{
	"root":           "hatchery sets it to the partition of the image",
	"init":           "hatchery removes the base image's own, and nothing may come before systemd",
	"rdinit":         "nothing may come before systemd",
	"cgroup_memory":  "hatchery sets it for Docker",
	"cgroup_disable": "Docker needs the control groups",
}

func (d *decoder) cmdline(items []item) []string {
	var words []string
	for _, it := range items {
		name, _, _ := strings.Cut(it.text, "=")
		switch own := ownWords[name]; {
		case own != "":
			d.problem(it, "%s cannot be set here: %s", name+"=", own)
		case it.text == "" || !printableASCII(it.text):
			d.problem(it, "a word of the command line is of printable ASCII characters, in one line")
		case strings.Count(it.text, `"`)%2 != 0:
			d.problem(it, "%s opens a quote and never closes it", quote(it.text))
		case strings.Contains(quotedPattern.ReplaceAllString(it.text, ""), " "):
			d.problem(it, "%s is more than one word: make each an entry of its own", quote(it.text))
		default:
			words = append(words, it.text)
		}
	}
	return words
}

var (
	quotedPattern = regexp.MustCompile(`"[^"]*"`)
	filterPattern = regexp.MustCompile(`^\[[A-Za-z0-9:=&_.+-]+\]$`)
	configPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(:[0-9])?( +|=|$)`)
)

// maxConfigLine is where the firmware stops reading a line.
const maxConfigLine = 98

func (d *decoder) config(items []item) []string {
	var lines []string
	filter := "" // that the lines stand under; of models the last counts
	for _, it := range items {
		name, value, _ := strings.Cut(it.text, "=")
		overlay, _, _ := strings.Cut(strings.TrimSpace(value), ",")
		switch {
		case strings.HasPrefix(it.text, "#") && printableASCII(it.text):
			lines = append(lines, it.text)
		case it.text == "" || !printableASCII(it.text):
			d.problem(it, "a line of config.txt is of printable ASCII characters; more lines are more entries of the list")
		case len(it.text) > maxConfigLine:
			d.problem(it, "the line has %d characters, and the firmware reads no more than %d", len(it.text), maxConfigLine)
		case strings.HasPrefix(name, "gpu_mem"):
			d.problem(it, "gpu_mem is a key of its own: write boot.gpu_mem")
		case strings.TrimSpace(name) == "dtoverlay" && overlay == "dwc2":
			d.problem(it, "hatchery sets the overlay dwc2 itself: host on the controller, peripheral on the nodes")
		case strings.HasPrefix(it.text, "["):
			lower := strings.ToLower(it.text) // as the firmware takes it
			switch {
			case !filterPattern.MatchString(it.text):
				d.problem(it, "%s is not a filter: write one such as [pi4]", quote(it.text))
			case filter != "" && lower != "[all]" && !(modelFilter(filter) && modelFilter(lower)):
				d.problem(it, "the lines after it would stand under %s and %s at once: write \"[all]\" between the two", filter, it.text)
			}
			if filter = lower; filter == "[all]" {
				filter = ""
			}
			lines = append(lines, it.text)
		case !configPattern.MatchString(it.text):
			d.problem(it, "%s is not a line of config.txt: write one such as dtparam=audio=off", quote(it.text))
		default:
			lines = append(lines, it.text)
		}
	}
	return lines
}

// modelFilter says whether a filter is one of models, such as [pi4].
func modelFilter(filter string) bool {
	return strings.HasPrefix(filter, "[pi") || strings.HasPrefix(filter, "[cm")
}

func printableASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) < 0
}
