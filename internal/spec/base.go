package spec

import (
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	imageNamePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9_.-]{0,63}$`)
	sha256Pattern    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// imageSuffixes are the endings by which a word is a file, not a name.
var imageSuffixes = []string{".img", ".xz", ".gz", ".zst", ".zip"}

// ImageKind says which form an image has as it is written in the file.
func ImageKind(text string) BaseKind {
	switch {
	case strings.Contains(text, "://"):
		return BaseURL
	case strings.ContainsAny(text, "/~"+string(filepath.Separator)):
		return BaseFile
	}
	lower := strings.ToLower(text)
	for _, suffix := range imageSuffixes {
		if strings.HasSuffix(lower, suffix) {
			return BaseFile
		}
	}
	return BaseName
}

func (d *decoder) image(v item) string {
	switch kind := ImageKind(v.text); {
	case kind == BaseURL:
		return d.fileURL(v)
	case kind == BaseFile:
		problems := len(d.problems)
		path, _ := d.existingFile(v, "the image")
		if _, err := os.Stat(path); path != "" && os.IsNotExist(err) && len(d.problems) > problems {
			d.pending()
		}
		return path
	case !imageNamePattern.MatchString(v.text):
		d.problem(v, "%s is no image: write a name of Raspberry Pi's OS list (raspios_lite_armhf; `hatchery lock --list` shows all), a file (./raspios.img.xz), or an https URL", quote(v.text))
	}
	return v.text
}

// osList is where names of images are looked up.
func (d *decoder) osList(v item) string {
	if strings.Contains(v.text, "://") {
		return d.fileURL(v)
	}
	path, _ := d.existingFile(v, "the list")
	return path
}

// fileURL checks the URL of something that is downloaded.
func (d *decoder) fileURL(v item) string {
	u, err := url.Parse(v.text)
	switch {
	case err != nil || u.Hostname() == "":
		d.problem(v, "this is not a URL") // the parser's error may quote a password
	case u.User != nil:
		d.problem(v, "a URL with a user or password in it would end up in other files, such as the manifest: download the file, and name it here")
	case u.Scheme == "https":
	case u.Scheme == "http" && loopback(u.Hostname()):
	case u.Scheme == "http":
		d.problem(v, "http can be tampered with on the way: use https")
	default:
		d.problem(v, "%s is not supported: use an https URL, or a file", quote(u.Scheme+"://"))
	}
	if u != nil && u.Fragment != "" {
		d.problem(v, "a URL of a file has no # part: remove it")
	}
	return v.text
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

func (d *decoder) sha256(v item) string {
	digest := strings.TrimPrefix(strings.ToLower(v.text), "sha256:")
	if !sha256Pattern.MatchString(digest) {
		d.problem(v, "%s is not a SHA-256 digest: 64 hexadecimal digits, as `sha256sum` prints them", quote(v.text))
	}
	return digest
}

// existingFile resolves the path of a file that must be there.
func (d *decoder) existingFile(v item, what string) (string, bool) {
	path, err := d.resolvePath(v.text)
	if err != nil {
		d.problem(v, "%s", err)
		return "", false
	}
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		d.problem(v, "%s %s does not exist%s", what, quote(v.text), d.relativeTo(v.text))
	case err != nil:
		d.problem(v, "%s %s cannot be read: %s", what, quote(v.text), reason(err))
	case !info.Mode().IsRegular():
		d.problem(v, "%s is %s, not a file", quote(v.text), fileKind(info.Mode()))
	default:
		return path, true
	}
	return path, false
}

// relativeTo reminds of where relative paths begin, when one leads nowhere.
func (d *decoder) relativeTo(path string) string {
	if filepath.IsAbs(path) || strings.HasPrefix(path, "~") {
		return ""
	}
	return " (paths are relative to the folder of " + filepath.Base(d.cluster.File) + ")"
}
