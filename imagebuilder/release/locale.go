package release

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"strings"

	"hatchery/overlays"
)

// Where a system has its locales: those that are made, and what they are made
// from.
const (
	localeGen     = "/etc/locale.gen"
	localesMade   = "/usr/lib/locale"
	localeArchive = localesMade + "/locale-archive"
	i18n          = "/usr/share/i18n"
	i18nSupported = i18n + "/SUPPORTED"
)

// locale sees to it that the target has its locale: it is listed in
// locale.gen, where the image has the file, for the node to make it. Other
// locales stay listed. A locale that the image neither has nor can make is a
// problem.
func (e *editor) locale() {
	locale := e.target.Locale
	if locale == "" || locale == "C" || locale == "POSIX" || strings.HasPrefix(locale, "C.") {
		return
	}
	charset, known := e.supported(locale)
	if !known {
		charset = charsetOf(locale)
		known = e.hasSource(locale, charset)
	}
	if !known && !e.compiled(locale) {
		if e.exists(i18n) {
			e.edits.Problems = append(e.edits.Problems, Problem{
				Fatal: true, Message: fmt.Sprintf("the image does not know the locale %s, which is neither in %s nor in %s", locale, i18nSupported, localesMade),
				Remedy: "set locale to a name that " + i18nSupported + " lists, such as en_GB.UTF-8, or to C.UTF-8, which needs nothing",
			})
			return
		}
		e.edits.Problems = append(e.edits.Problems, Problem{
			Message: fmt.Sprintf("the image may lack the locale %s: it is not in %s, and there is no %s to make it from", locale, localesMade, i18n),
			Remedy:  "set locale to C.UTF-8, which needs nothing, or use an image with the package locales",
		})
	}
	e.listLocale(locale, charset)
}

// supported looks a locale up in the list of those that can be made, of which
// a line is a name and a character set.
func (e *editor) supported(locale string) (charset string, ok bool) {
	data, _ := e.read(i18nSupported)
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) == 2 && compiledName(fields[0]) == compiledName(locale) {
			return fields[1], true
		}
	}
	return "", false
}

// hasSource says whether a locale that no list names can be made all the same:
// its language's definition and its character set are there.
func (e *editor) hasSource(locale, charset string) bool {
	base, modifier, _ := strings.Cut(locale, "@")
	language, _, _ := strings.Cut(base, ".")
	if modifier != "" {
		language += "@" + modifier
	}
	charmap := path.Join(i18n, "charmaps", charset)
	return e.isFile(path.Join(i18n, "locales", language)) && (e.isFile(charmap+".gz") || e.isFile(charmap))
}

// compiled says whether a locale is made already, in a folder of its own or in
// the archive.
func (e *editor) compiled(locale string) bool {
	name := compiledName(locale)
	if e.exists(path.Join(localesMade, name)) || e.exists(path.Join(localesMade, locale)) {
		return true
	}
	data, _ := e.read(localeArchive)
	return archiveHas(data, name)
}

// archiveHas looks a name up in a locale archive: a header of 32-bit numbers,
// of which the second pair is where the table of names is and how many it
// holds, the next its size; an entry of the table is a hash, where its name is,
// and where its locale is (0 for an empty entry). Everything is in the order
// of bytes of the system, which is little-endian on every Raspberry Pi.
//
// Source: locale/locarchive.h of the GNU C library.
func archiveHas(data []byte, name string) bool {
	const magic, header, entry = 0xde020109, 5 * 4, 3 * 4
	if len(data) < header || binary.LittleEndian.Uint32(data) != magic {
		return false
	}
	table, size := uint64(binary.LittleEndian.Uint32(data[8:])), uint64(binary.LittleEndian.Uint32(data[16:]))
	want := append([]byte(name), 0)
	for at := table; size > 0 && at+entry <= uint64(len(data)); at, size = at+entry, size-1 {
		text, locale := uint64(binary.LittleEndian.Uint32(data[at+4:])), binary.LittleEndian.Uint32(data[at+8:])
		if locale != 0 && text < uint64(len(data)) && bytes.HasPrefix(data[text:], want) {
			return true
		}
	}
	return false
}

// compiledName is a locale's name with its character set as the C library
// spells it: en_GB.utf8.
func compiledName(locale string) string {
	base, modifier, hasModifier := strings.Cut(locale, "@")
	if language, charset, ok := strings.Cut(base, "."); ok {
		base = language + "." + strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(charset))
	}
	if hasModifier {
		base += "@" + modifier
	}
	return base
}

// charsetOf is the character set that a locale's name says, or that goes
// without saying.
func charsetOf(locale string) string {
	base, modifier, _ := strings.Cut(locale, "@")
	_, charset, ok := strings.Cut(base, ".")
	switch {
	case !ok && modifier == "euro":
		return "ISO-8859-15"
	case !ok:
		return "ISO-8859-1"
	case strings.EqualFold(strings.ReplaceAll(charset, "-", ""), "utf8"):
		return "UTF-8"
	}
	return charset
}

// listLocale lists the locale in locale.gen.
func (e *editor) listLocale(locale, charset string) {
	data, ok := e.read(localeGen)
	if !ok {
		return
	}
	want := locale + " " + charset
	lines := strings.Split(string(data), "\n")
	commented := -1
	for i, line := range lines {
		fields := strings.Join(strings.Fields(line), " ")
		if fields == want {
			return
		}
		if commented < 0 && strings.HasPrefix(fields, "#") && strings.TrimSpace(fields[1:]) == want {
			commented = i
		}
	}
	text := ""
	if commented >= 0 {
		lines[commented] = want
		text = strings.Join(lines, "\n")
	} else {
		text = string(data)
		if text != "" && !strings.HasSuffix(text, "\n") {
			text += "\n"
		}
		text += want + "\n"
	}
	e.write(overlays.Entry{Path: localeGen, Mode: 0o644, Content: []byte(text)})
}
