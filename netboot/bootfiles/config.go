package bootfiles

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"hatchery/internal/bootpart"
)

// Limits of config.txt and what it includes: bytes, lines and included files in
// all, and files within files.
const (
	maxConfig   = 256 << 10
	maxLines    = 8192
	maxIncludes = 32
	maxNested   = 8
)

// A config is a slot's config.txt: the image's own with included files in it,
// and what booting over the link takes.
type config struct {
	model bootpart.Model
	lines []configLine
	value *bootpart.Config // in place of every value, the number of its line in lines
	loose *bootpart.Config // the same, as if every condition but the board's held
}

type configLine struct {
	text   string
	origin string // "line 12 of config.txt"; "" for our own
}

// setting takes a line apart, as internal/bootpart does.
func setting(text string) (key, value string) {
	text = strings.TrimSpace(text)
	if text == "" || text[0] == '#' || text[0] == '[' {
		return "", ""
	}
	end := strings.IndexAny(text, "= \t")
	if end < 0 {
		return text, ""
	}
	return text[:end], strings.TrimSpace(strings.TrimPrefix(strings.TrimLeft(text[end:], " \t"), "="))
}

// conditional says whether a filter depends on more than the board's model.
func conditional(text string) bool {
	name, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(text)), "[")
	if !ok {
		return false
	}
	for _, kind := range []string{"edid=", "0x", "gpio", "hdmi:", "tryboot", "boot_", "bootvar"} {
		if strings.HasPrefix(strings.TrimSpace(name), kind) {
			return true
		}
	}
	return false
}

// index makes what tells the lines that count for the model.
func index(lines []configLine) (value, loose *bootpart.Config) {
	var strict, wide strings.Builder
	for i, l := range lines {
		text := l.text
		key, _ := setting(text)
		if key != "" {
			text = key + "=" + strconv.Itoa(i)
		}
		// A line end of another kind must not make a line of its own.
		text = strings.ReplaceAll(text, "\n", " ")
		strict.WriteString(text + "\n")
		if conditional(text) {
			text = ""
		}
		wide.WriteString(text + "\n")
	}
	return bootpart.ParseConfig([]byte(strict.String())), bootpart.ParseConfig([]byte(wide.String()))
}

// readConfig reads config.txt and what it includes: the firmware's first stage
// (bootcode.bin) does not follow include lines, and would choose other files
// than the second.
func readConfig(model bootpart.Model, read func(name string) ([]byte, error)) (*config, error) {
	c := &config{model: model}
	total, includes := 0, 0
	var expand func(name string, depth int) error
	expand = func(name string, depth int) error {
		text, err := read(name)
		if err != nil {
			return err
		}
		if total += len(text); total > maxConfig {
			return fmt.Errorf("config.txt and what it includes have more than %d KiB", maxConfig>>10)
		}
		number := 0
		for line := range strings.Lines(string(text)) {
			number++
			l := configLine{strings.TrimRight(line, "\r\n"), fmt.Sprintf("line %d of %s", number, name)}
			if len(c.lines) >= maxLines {
				return fmt.Errorf("config.txt and what it includes have more than %d lines", maxLines)
			}
			c.lines = append(c.lines, l)
			key, included := setting(l.text)
			if key != "include" || included == "" {
				continue
			}
			if includes++; includes > maxIncludes || depth >= maxNested {
				return fmt.Errorf("%s includes %s: that is more than %d files, or %d within each other, and may have no end; put what is needed into config.txt", l.origin, included, maxIncludes, maxNested)
			}
			// Is it for this board?
			_, loose := index(c.lines)
			last := len(c.lines) - 1
			c.lines[last].text = "#" + l.text
			if here, ok := loose.Effective(model, "include"); !ok || here != strconv.Itoa(last) {
				continue
			}
			switch err := expand(included, depth+1); {
			case errors.Is(err, fs.ErrNotExist):
				return &missingInclude{Missing{included, "include, " + l.origin}}
			case err != nil:
				return err
			}
		}
		return nil
	}
	err := expand("config.txt", 0)
	return c, err
}

// missingInclude is a file that is included and not there.
type missingInclude struct{ Missing }

func (e *missingInclude) Error() string { return e.Name + " is missing (" + e.Why + ")" }

// InitramfsName is what the initramfs is called on the boot partition.
const InitramfsName = "hatchery-initramfs.img"

// adapt makes it the config.txt of a node that boots over its USB link.
func (c *config) adapt() {
	overlays := false
	for i := range c.lines {
		l := &c.lines[i]
		key, _ := setting(l.text)
		switch {
		case key == "initramfs", key == "auto_initramfs", key == "ramfsfile", key == "ramfsaddr",
			bootpart.IsOverlay(l.text, "dwc2"), bootpart.IsOverlay(l.text, "dwc-otg"):
			l.text = "#" + l.text
		case key == "dtoverlay":
			overlays = true
		}
	}
	add := func(text string) { c.lines = append(c.lines, configLine{text: text}) }
	add("[all]")
	add("# hatchery: over the USB link, without a card")
	if overlays {
		add("dtoverlay=") // what follows is no parameter of the last overlay
	}
	add("dtparam=sd_poll_once=on")
	add("dtoverlay=dwc2,dr_mode=peripheral")
	add("initramfs " + InitramfsName + " followkernel")
	c.value, c.loose = index(c.lines)
}

// arm makes it the config.txt of a node with a card that is written anew: what
// starts does so from memory, and everything else is as ever. The command line is
// cmdline.txt, whatever it was.
func (c *config) arm() {
	overlays := false
	for i := range c.lines {
		l := &c.lines[i]
		switch key, _ := setting(l.text); key {
		case "initramfs", "auto_initramfs", "ramfsfile", "ramfsaddr", "cmdline":
			l.text = "#" + l.text
		case "dtoverlay":
			overlays = true
		}
	}
	add := func(text string) { c.lines = append(c.lines, configLine{text: text}) }
	add("[all]")
	add("# hatchery: the card is written anew")
	if overlays {
		add("dtoverlay=")
	}
	add("initramfs " + InitramfsName + " followkernel")
	c.value, c.loose = index(c.lines)
}

// Bytes is the file.
func (c *config) Bytes() []byte {
	var s strings.Builder
	for _, l := range c.lines {
		s.WriteString(l.text + "\n")
	}
	return []byte(s.String())
}

// at is the line that a number in place of a value stands for.
func (c *config) at(number string) (configLine, string) {
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(c.lines) {
		return configLine{}, ""
	}
	_, value := setting(c.lines[i].text)
	return c.lines[i], value
}

// get gives a setting's value for the model, and the line that it is from.
func (c *config) get(key string) (value, why string, ok bool) {
	number, ok := c.value.Effective(c.model, key)
	if !ok {
		return "", "", false
	}
	line, value := c.at(number)
	return value, line.why(), true
}

// number is get for a whole number; 0 where it is not set.
func (c *config) number(key string) (n int64, why string) {
	value, why, _ := c.get(key)
	n, err := strconv.ParseInt(value, 0, 64)
	if err != nil {
		return 0, why
	}
	return n, why
}

// why is the line as a reason: what it says, and where.
func (l configLine) why() string {
	text := strings.TrimSpace(l.text)
	if len(text) > bootpart.ConfigLineMax {
		text = text[:bootpart.ConfigLineMax]
	}
	if l.origin == "" {
		return text + ", which hatchery adds"
	}
	return text + ", " + l.origin
}

// An asked overlay is one that a line names.
type asked struct{ name, why string }

// overlays lists the overlays that are loaded on the model, once each.
func (c *config) overlays() []asked {
	var all []asked
	for _, key := range []string{"dtoverlay", "device_tree_overlay"} {
		for _, number := range c.value.EffectiveAll(c.model, key) {
			line, value := c.at(number)
			name, _, _ := strings.Cut(value, ",")
			name, _, _ = strings.Cut(name, ":")
			name = strings.TrimSpace(name)
			if name != "" && !slices.ContainsFunc(all, func(a asked) bool { return a.name == name }) {
				all = append(all, asked{name, line.why()})
			}
		}
	}
	return all
}

// unchecked lists the lines that name files, and count only under a condition
// that is not known here.
func (c *config) unchecked() []string {
	var all []string
	for _, key := range []string{"kernel", "device_tree", "cmdline", "os_prefix", "overlay_prefix", "start_file", "fixup_file", "start_x", "start_debug",
		"gpu_mem", "gpu_mem_512", "dtoverlay", "device_tree_overlay", "armstub", "arm_64bit"} {
		strict := c.value.EffectiveAll(c.model, key)
		for _, number := range c.loose.EffectiveAll(c.model, key) {
			if line, value := c.at(number); !slices.Contains(strict, number) && value != "" && len(all) < 16 {
				all = append(all, line.why())
			}
		}
	}
	return all
}
