package bootpart

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ConfigLineMax is how much of a line of config.txt the firmware reads, in
// bytes; what stands behind is ignored without a word.
const ConfigLineMax = 98

// All is the section that every board reads.
const All = "all"

// A Config is the content of config.txt: lines, and between them filters
// ("[pi4]") that say which boards the following lines are for. Lines that no
// edit touches are written back byte for byte, comments and line ends
// included.
//
// A filter replaces the filter of the same kind before it ([pi4] replaces
// [pi3]) and adds to those of other kinds ([EDID=…] then [pi4] is both);
// [all] drops them all. What stands before the first filter is in section
// "all". A section is what stands under exactly one filter, and is named by
// it with or without the brackets: "cm4", "[gpio4=1]".
type Config struct {
	lines []configLine
	eol   string // of new lines
}

type configLine struct {
	text string
	eol  string // "\n", "\r\n"; "" where the file ends without one
}

// ParseConfig reads config.txt. It takes anything, as the firmware does.
func ParseConfig(b []byte) *Config {
	c := &Config{eol: "\n"}
	crlf := 0
	for rest, found := string(b), false; rest != ""; {
		var line string
		line, rest, found = strings.Cut(rest, "\n")
		l := configLine{text: line}
		if found {
			l.eol = "\n"
			if strings.HasSuffix(line, "\r") {
				l.text, l.eol = line[:len(line)-1], "\r\n"
				crlf++
			}
		}
		c.lines = append(c.lines, l)
	}
	if crlf > len(c.lines)/2 {
		c.eol = "\r\n"
	}
	return c
}

// Bytes is the file.
func (c *Config) Bytes() []byte {
	var sb strings.Builder
	for _, l := range c.lines {
		sb.WriteString(l.text)
		sb.WriteString(l.eol)
	}
	return []byte(sb.String())
}

// filterKinds are the kinds of filter that can hold at the same time.
type filterKind int

const (
	modelFilter filterKind = iota // [pi4], [cm4], [board-type=0x14]
	edidFilter
	serialFilter
	gpioFilter
	hdmiFilter
	trybootFilter
	noneFilter
	filterKinds
)

// filters is what stands between a line and its taking effect: at most one
// filter of each kind, in lower case; "" for none.
type filters [filterKinds]string

func filterOf(name string) filterKind {
	switch {
	case strings.HasPrefix(name, "edid="):
		return edidFilter
	case strings.HasPrefix(name, "0x"):
		return serialFilter
	case strings.HasPrefix(name, "gpio"):
		return gpioFilter
	case strings.HasPrefix(name, "hdmi:"):
		return hdmiFilter
	case name == "tryboot":
		return trybootFilter
	case name == "none":
		return noneFilter
	}
	// A name that is not known here is most likely a newer board's.
	return modelFilter
}

// under gives the filters that hold after a filter line.
func (f filters) under(name string) filters {
	if name == All {
		return filters{}
	}
	f[filterOf(name)] = name
	return f
}

// filterLine gives the name in a filter line, in lower case.
func filterLine(text string) (name string, ok bool) {
	text = strings.TrimSpace(text)
	if !strings.HasPrefix(text, "[") {
		return "", false
	}
	name, _, ok = strings.Cut(text[1:], "]")
	return strings.ToLower(strings.TrimSpace(name)), ok && name != ""
}

// section gives the filters that a section's name stands for.
func section(name string) (filters, error) {
	bare := strings.ToLower(strings.TrimSpace(name))
	if strings.HasPrefix(bare, "[") {
		bare = strings.TrimSpace(strings.TrimSuffix(bare[1:], "]"))
	}
	if bare == "" || !utf8.ValidString(name) || strings.ContainsAny(bare, "[]#") || strings.ContainsFunc(name, unicode.IsControl) {
		return filters{}, fmt.Errorf("%q is no section of config.txt", name)
	}
	return filters{}.under(bare), nil
}

// each calls fn for every line that is not a filter line, with the filters it
// stands under, until fn returns false.
func (c *Config) each(fn func(i int, at filters, text string) bool) {
	var at filters
	for i, l := range c.lines {
		if name, ok := filterLine(l.text); ok {
			at = at.under(name)
			continue
		}
		if !fn(i, at, l.text) {
			return
		}
	}
}

// setting takes a line apart. A line without an equals sign has its first
// word for a key (include, initramfs). Comments and empty lines have none.
func setting(text string) (key, value string) {
	text = strings.TrimSpace(text)
	if text == "" || text[0] == '#' {
		return "", ""
	}
	end := strings.IndexAny(text, "= \t")
	if end < 0 {
		return text, ""
	}
	return text[:end], strings.TrimSpace(strings.TrimPrefix(strings.TrimLeft(text[end:], " \t"), "="))
}

// repeats says of which keys every line counts, not only the last.
func repeats(key string) bool {
	switch key {
	case "dtoverlay", "dtparam", "device_tree_overlay", "device_tree_param", "include", "initramfs", "gpio":
		return true
	}
	return false
}

// Get gives the value that a key has in a section, where it stands more than
// once the last one.
func (c *Config) Get(name, key string) (string, bool) {
	all := c.Values(name, key)
	if len(all) == 0 {
		return "", false
	}
	return all[len(all)-1], true
}

// Values gives every value that a key has in a section, in order: for
// dtoverlay, dtparam and the like, which may be repeated.
func (c *Config) Values(name, key string) []string {
	want, err := section(name)
	if err != nil {
		return nil
	}
	var all []string
	c.each(func(_ int, at filters, text string) bool {
		if k, value := setting(text); k == key && at == want {
			all = append(all, value)
		}
		return true
	})
	return all
}

// Set gives a key one value in a section: in the line that has it, else in a
// new one. Other lines of the section with that key go. The line stands where
// it counts, that is, behind those of wider sections ([cm4] behind [pi4] and
// [all]); those of narrower ones remain as exceptions. Keys that may be
// repeated are refused: for them there are Add and CommentOut.
func (c *Config) Set(name, key, value string) error {
	if repeats(key) {
		return fmt.Errorf("%s may stand in config.txt more than once: add a line instead", key)
	}
	want, err := section(name)
	if err != nil {
		return err
	}
	line := key + "=" + value
	if err := checkLine(line); err != nil {
		return err
	}
	if k, v := setting(line); k != key || v != strings.TrimSpace(value) {
		return fmt.Errorf("%q is no setting of config.txt", line)
	}
	var found []int
	wider := -1 // the last line of a wider section
	c.each(func(i int, at filters, text string) bool {
		if k, _ := setting(text); k == key {
			switch {
			case at == want:
				found = append(found, i)
			case at.cover(want):
				wider = i
			}
		}
		return true
	})
	kept := -1
	if len(found) > 0 && found[len(found)-1] > wider {
		kept = found[len(found)-1]
		if _, before := setting(c.lines[kept].text); before != strings.TrimSpace(value) {
			c.lines[kept].text = line
		}
	}
	for _, i := range slices.Backward(found) {
		if i != kept {
			c.lines = slices.Delete(c.lines, i, i+1)
			if i < wider {
				wider--
			}
		}
	}
	if kept < 0 {
		c.insert(name, want, line, wider)
	}
	return nil
}

// cover says whether every board under the filters g is also under f.
func (f filters) cover(g filters) bool {
	for kind, name := range f {
		switch {
		case name == "" || name == g[kind]:
		case filterKind(kind) == modelFilter && g[kind] != "":
			for _, m := range models {
				if slices.Contains(m, g[kind]) && !slices.Contains(m, name) {
					return false
				}
			}
			if !knownModel(g[kind]) {
				return false
			}
		default:
			return false
		}
	}
	return true
}

// Add puts a line into a section, unless it stands there already. In section
// "all" it goes to the end of the file, so that it has the last word; any
// other section is continued where it last stands, or begun at the end.
func (c *Config) Add(name, line string) error {
	want, err := section(name)
	if err != nil {
		return err
	}
	if err := checkLine(line); err != nil {
		return err
	}
	line = strings.TrimSpace(line)
	there := false
	c.each(func(_ int, at filters, text string) bool {
		there = there || at == want && strings.TrimSpace(text) == line
		return !there
	})
	if !there {
		c.insert(name, want, line, -1)
	}
	return nil
}

func checkLine(line string) error {
	trimmed := strings.TrimSpace(line)
	key, _ := setting(trimmed)
	switch {
	case strings.ContainsAny(line, "\r\n\x00"):
		return fmt.Errorf("%q is no single line of config.txt", line)
	case strings.HasPrefix(trimmed, "["):
		return fmt.Errorf("%q is a filter: name it as the section", line)
	case trimmed == "" || trimmed[0] != '#' && key == "":
		return fmt.Errorf("%q is no setting of config.txt", line)
	case len(line) > ConfigLineMax:
		return fmt.Errorf("%q has %d bytes; the firmware ignores what stands behind the first %d of a line", line, len(line), ConfigLineMax)
	}
	return nil
}

// insert puts a new line into a section, somewhere behind the line after.
func (c *Config) insert(name string, want filters, line string, after int) {
	var at filters // at the end of the file
	last := -1     // the last line in the section that is not empty
	for i, l := range c.lines {
		if filter, ok := filterLine(l.text); ok {
			at = at.under(filter)
		}
		if at == want && strings.TrimSpace(l.text) != "" {
			last = i
		}
	}
	everyone := filters{}
	switch {
	case want == everyone && at == everyone:
		c.put(len(c.lines), line)
	case want == everyone:
		c.put(len(c.lines), "["+All+"]", line)
	case last > after:
		c.put(last+1, line)
	default:
		// Begun from [all], so that no other filter holds, and closed with
		// it, so that what others append is for every board.
		bare := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(name), "["), "]")
		lines := []string{"[" + bare + "]", line, "[" + All + "]"}
		if at != everyone {
			lines = append([]string{"[" + All + "]"}, lines...)
		}
		c.put(len(c.lines), lines...)
	}
}

// put inserts lines before line i.
func (c *Config) put(i int, texts ...string) {
	if i > 0 && c.lines[i-1].eol == "" {
		c.lines[i-1].eol = c.eol
	}
	var lines []configLine
	for _, text := range texts {
		lines = append(lines, configLine{text, c.eol})
	}
	c.lines = slices.Insert(c.lines, i, lines...)
}

// Remove takes away the settings of a section ("" for every section) of which
// fn says so, and says how many. fn sees the line without space around it;
// comments and filters are not asked about.
func (c *Config) Remove(name string, fn func(line string) bool) int {
	found := c.match(name, fn)
	for _, i := range slices.Backward(found) {
		c.lines = slices.Delete(c.lines, i, i+1)
	}
	return len(found)
}

// CommentOut is Remove, but the lines stay behind a #.
func (c *Config) CommentOut(name string, fn func(line string) bool) int {
	found := c.match(name, fn)
	for _, i := range found {
		c.lines[i].text = "#" + c.lines[i].text
	}
	return len(found)
}

func (c *Config) match(name string, fn func(line string) bool) []int {
	var want filters
	if name != "" {
		var err error
		if want, err = section(name); err != nil {
			return nil
		}
	}
	var found []int
	c.each(func(i int, at filters, text string) bool {
		if key, _ := setting(text); key != "" && (name == "" || at == want) && fn(strings.TrimSpace(text)) {
			found = append(found, i)
		}
		return true
	})
	return found
}

// IsOverlay says whether a line loads the named device tree overlay, with
// whatever parameters: "dtoverlay=dwc2,dr_mode=host" loads dwc2.
func IsOverlay(line, name string) bool {
	key, value := setting(line)
	if key != "dtoverlay" && key != "device_tree_overlay" {
		return false
	}
	overlay, _, _ := strings.Cut(value, ",")
	overlay, _, _ = strings.Cut(overlay, ":") // dtoverlay=name:param=…
	return strings.TrimSpace(overlay) == name
}

// IsSetting says whether a line sets the key.
func IsSetting(line, key string) bool {
	k, _ := setting(line)
	return k != "" && k == key
}

// Includes lists the files that are read in where include lines stand. What
// is in them is not looked at here.
func (c *Config) Includes() []string {
	var all []string
	c.each(func(_ int, _ filters, text string) bool {
		if key, value := setting(text); key == "include" && value != "" {
			all = append(all, value)
		}
		return true
	})
	return all
}

// A Model names the model filters that a board answers to: a Compute Module 4
// reads [pi4] and [cm4].
type Model []string

// The boards, with the filters of Raspberry Pi's own table.
var (
	ModelPi1     = Model{"pi1"}
	ModelCM1     = Model{"pi1", "cm1"}
	ModelZero    = Model{"pi0"}
	ModelZeroW   = Model{"pi0", "pi0w"}
	ModelZero2W  = Model{"pi0", "pi02"}
	ModelPi2     = Model{"pi2"}
	ModelPi3     = Model{"pi3"}
	ModelPi3Plus = Model{"pi3", "pi3+"}
	ModelCM3     = Model{"pi3", "cm3"}
	ModelPi4     = Model{"pi4"}
	ModelPi400   = Model{"pi4", "pi400"}
	ModelCM4     = Model{"pi4", "cm4"}
	ModelCM4S    = Model{"pi4", "cm4s"}
	ModelPi5     = Model{"pi5"}
	ModelPi500   = Model{"pi5", "pi500"}
	ModelCM5     = Model{"pi5", "cm5"}
)

var models = []Model{
	ModelPi1, ModelCM1, ModelZero, ModelZeroW, ModelZero2W, ModelPi2, ModelPi3, ModelPi3Plus, ModelCM3,
	ModelPi4, ModelPi400, ModelCM4, ModelCM4S, ModelPi5, ModelPi500, ModelCM5,
}

func knownModel(filter string) bool {
	return slices.ContainsFunc(models, func(m Model) bool { return slices.Contains(m, filter) })
}

// Effective gives the value of a key that a board ends up with: the last line
// that applies to it. Lines that also depend on a monitor, a serial number, a
// pin or tryboot do not count, nor do included files.
func (c *Config) Effective(model Model, key string) (string, bool) {
	all := c.EffectiveAll(model, key)
	if len(all) == 0 {
		return "", false
	}
	return all[len(all)-1], true
}

// EffectiveAll gives every value of a key that applies to a board, in order.
func (c *Config) EffectiveAll(model Model, key string) []string {
	var all []string
	c.each(func(_ int, at filters, text string) bool {
		board := at[modelFilter]
		at[modelFilter] = ""
		if k, value := setting(text); k == key && at == (filters{}) && (board == "" || slices.Contains(model, board)) {
			all = append(all, value)
		}
		return true
	})
	return all
}
