package diskimage

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// A Release is which operating system an image holds, as far as it says.
type Release struct {
	ID           string // raspbian, debian, ubuntu, alpine
	Codename     string // bookworm
	Name         string // "Raspbian GNU/Linux 12 (bookworm)"
	Version      string // "12"
	Architecture string // as the distribution calls it: armhf, arm64
}

// Release tells by os-release and the package manager's own record which
// operating system the image holds. It is empty where there is none.
func (im *Image) Release() Release {
	if im.release != nil {
		return *im.release
	}
	im.release = &Release{}
	t, err := im.assemble()
	if err != nil {
		return *im.release
	}
	data, err := ReadFile(t, "/etc/os-release", mostConfig)
	if absent(err) {
		data, err = ReadFile(t, "/usr/lib/os-release", mostConfig)
	}
	if err == nil {
		values := parseOSRelease(data)
		*im.release = Release{ID: values["ID"], Codename: values["VERSION_CODENAME"], Name: values["PRETTY_NAME"], Version: values["VERSION_ID"]}
	}
	im.release.Architecture = architecture(t)
	return *im.release
}

// parseOSRelease reads os-release(5): assignments as a shell has them, without
// expansion.
func parseOSRelease(data []byte) map[string]string {
	values := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || key == "" || strings.HasPrefix(key, "#") {
			continue
		}
		values[key] = unquote(value)
	}
	return values
}

func unquote(s string) string {
	if n := len(s); n >= 2 && (s[0] == '"' || s[0] == '\'') && s[n-1] == s[0] {
		single := s[0] == '\''
		if s = s[1 : n-1]; single {
			return s
		}
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// architecture is that of the packages: dpkg's or apk's own record, else what
// the shell is made for.
func architecture(t *tree) string {
	// dpkg itself is always of the native architecture.
	if status, err := ReadFile(t, "/var/lib/dpkg/status", mostStatus); err == nil {
		for _, pkg := range []string{"dpkg", "libc6", "base-files"} {
			if a := packageArchitecture(status, pkg); a != "" && a != "all" {
				return a
			}
		}
	}
	if data, err := ReadFile(t, "/etc/apk/arch", mostConfig); err == nil {
		return strings.TrimSpace(string(data))
	}
	for _, name := range []string{"/bin/sh", "/usr/bin/env", "/sbin/init"} {
		if a := elfArchitecture(t, name); a != "" {
			return a
		}
	}
	return ""
}

// mostStatus bounds dpkg's status file: a desktop's has 3 MB.
const mostStatus = 64 << 20

func packageArchitecture(status []byte, name string) string {
	want := []byte("Package: " + name + "\n")
	at := 0
	for {
		i := bytes.Index(status[at:], want)
		if i < 0 {
			return ""
		}
		if at += i; at == 0 || status[at-1] == '\n' {
			break
		}
		at++
	}
	stanza, _, _ := bytes.Cut(status[at:], []byte("\n\n"))
	for line := range bytes.Lines(stanza) {
		if value, ok := bytes.CutPrefix(line, []byte("Architecture: ")); ok {
			return string(bytes.TrimSpace(value))
		}
	}
	return ""
}

// elfArchitecture tells a program's machine in Debian's words.
func elfArchitecture(t *tree, name string) string {
	f, err := t.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 52)
	if n, _ := f.Read(head); n < len(head) || string(head[:4]) != "\x7fELF" {
		return ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	if head[5] == 2 {
		order = binary.BigEndian
	}
	switch order.Uint16(head[18:]) {
	case 40:
		const hardFloat = 0x400
		if order.Uint32(head[36:])&hardFloat != 0 {
			return "armhf"
		}
		return "armel"
	case 183:
		return "arm64"
	case 3:
		return "i386"
	case 62:
		return "amd64"
	case 243:
		return "riscv64"
	}
	return ""
}
