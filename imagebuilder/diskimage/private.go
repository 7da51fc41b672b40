package diskimage

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// A PrivateFile is a file of an image that others must not see: who has it can
// pass for the machine or its users, or reads their passwords.
type PrivateFile struct {
	Path string
	What string // "SSH host key", "password hash of pi"
}

// A privateRule says where private things lie.
type privateRule struct {
	// pattern is a path whose components may hold *, as in [path.Match]; one
	// that is ** stands for any folders, none included.
	pattern string
	what    string
	// says tells by the content whether it is one indeed, and what it is; nil
	// where the name says enough.
	says func(what string, content []byte) string
}

// privateRules are facts about many programs: where each keeps its keys. Boot
// stands for the place of the boot partition.
var privateRules = []privateRule{
	{"/etc/ssh/ssh_host_*_key", "SSH host key", nil},
	{"/etc/hatchery/identity/key.pem", "the node's key for joining the cluster", nil},
	{"/etc/hatchery/identity/page-key.pem", "the key of the controller's page", nil},
	{"/etc/hatchery/workloads.json", "what the controller runs, with its variables filled in", nil},
	{"/var/lib/hatchery/secrets/*", "secret of the swarm", nil},
	{"/etc/shadow", "password hash", passwordHashes},
	{"/etc/shadow-", "password hash", passwordHashes},
	{"/etc/gshadow", "password hash", passwordHashes},
	{"/root/.ssh/*", "SSH key", holdsKey},
	{"/home/*/.ssh/*", "SSH key", holdsKey},
	{"/etc/NetworkManager/system-connections/*", "network password", holds(`(?mi)^(psk|password|leap-password|private-key-password|wep-key\d|secrets?|private-key)=.`)},
	{"/etc/netplan/*", "network password", holds(`(?mi)^\s*("?)(password|auth-key|key)"?:\s*\S`)},
	{"/etc/wpa_supplicant/*.conf", "Wi-Fi password", holds(wpaSecret)},
	{"BOOT/wpa_supplicant.conf", "Wi-Fi password", holds(wpaSecret)},
	{"/etc/network/interfaces", "Wi-Fi password", holds(`(?mi)^\s*wpa-(psk|passphrase|password)\s`)},
	{"/etc/network/interfaces.d/*", "Wi-Fi password", holds(`(?mi)^\s*wpa-(psk|passphrase|password)\s`)},
	{"/var/lib/iwd/*.psk", "Wi-Fi password", nil},
	{"/var/lib/iwd/*.8021x", "Wi-Fi password", nil},
	{"/etc/hostapd/*.conf", "Wi-Fi password", holds(`(?mi)^\s*(wpa_passphrase|wpa_psk|sae_password)=.`)},
	{"/etc/wireguard/*.conf", "WireGuard key", holds(`(?mi)^\s*(PrivateKey|PresharedKey)\s*=`)},
	{"/etc/wireguard/*.key", "WireGuard key", nil},
	{"/etc/systemd/network/*.netdev", "WireGuard key", holds(`(?mi)^\s*(PrivateKey|PresharedKey)\s*=`)},
	{"/etc/openvpn/**", "VPN key", holdsKey},
	{"/etc/ipsec.secrets", "VPN key", holds(`(?m)^[^#\n]*:\s*(PSK|RSA|ECDSA|EAP)`)},
	{"/etc/ppp/*-secrets", "network password", holds(`(?m)^[^#\s]+\s+\S+\s+\S`)},
	{"/var/lib/tailscale/tailscaled.state", "VPN key", nil},
	{"/var/lib/docker/swarm/certificates/*.key", "Docker Swarm key of this node", nil},
	{"/var/lib/docker/swarm/docker-state.json", "membership in a Docker Swarm", nil},
	{"/etc/docker/certs.d/**", "registry key", holdsKey},
	{"/var/lib/rancher/k3s/server/*token", "Kubernetes token", nil},
	{"/var/lib/rancher/k3s/**/*.key", "Kubernetes key", nil},
	{"/etc/kubernetes/**", "Kubernetes key", holds(`(?m)PRIVATE KEY-----|^\s*(client-key-data|token):\s*\S`)},
	{"/etc/ssl/private/*", "TLS key", holdsKey},
	{"/etc/letsencrypt/**", "TLS key", holdsKey},
	{"/etc/krb5.keytab", "Kerberos key", nil},
	{"/etc/cloudflared/*.json", "tunnel token", nil},
	{"/home/*/.cloudflared/*.json", "tunnel token", nil},
	{"/root/.docker/config.json", "registry password", holds(registryAuth)},
	{"/home/*/.docker/config.json", "registry password", holds(registryAuth)},
	{"/root/.kube/config", "Kubernetes token", nil},
	{"/home/*/.kube/config", "Kubernetes token", nil},
	{"/root/.aws/credentials", "cloud token", nil},
	{"/home/*/.aws/credentials", "cloud token", nil},
	{"/root/.git-credentials", "Git password", nil},
	{"/home/*/.git-credentials", "Git password", nil},
	{"/root/.config/gh/hosts.yml", "GitHub token", nil},
	{"/home/*/.config/gh/hosts.yml", "GitHub token", nil},
	{"/root/.netrc", "password", nil},
	{"/home/*/.netrc", "password", nil},
	{"/root/.pgpass", "database password", nil},
	{"/home/*/.pgpass", "database password", nil},
	{"/root/.gnupg/private-keys-v1.d/*", "OpenPGP key", nil},
	{"/home/*/.gnupg/private-keys-v1.d/*", "OpenPGP key", nil},
	{"BOOT/userconf", "password hash", bootAccount},
	{"BOOT/userconf.txt", "password hash", bootAccount},
	{"BOOT/user-data", "password", holds(cloudSecret)},
	{"BOOT/network-config", "network password", holds(`(?mi)^\s*("?)(password|auth-key)"?:\s*\S`)},
	{"BOOT/custom.toml", "password", holds(`(?mi)^\s*password\s*=\s*\S`)},
	{"BOOT/firstrun.sh", "password", holds(`(?i)psk=|userconf|chpasswd|\$[0-9a-z]+\$[./0-9A-Za-z$]{16}`)},
	{"/var/lib/cloud/instances/*/user-data.txt", "password", holds(cloudSecret)},
	{"/var/lib/cloud/seed/*/user-data", "password", holds(cloudSecret)},
}

const (
	wpaSecret    = `(?mi)^\s*(psk|password|sae_password|wep_key\d|private_key_passwd)=.`
	registryAuth = `"(auth|identitytoken|registrytoken)"\s*:\s*"[^"]`
	cloudSecret  = `(?mi)^\s*-?\s*"?(passwd|password|hashed_passwd|plain_text_passwd|ssh_keys|[a-z0-9]+_private|psk)"?:\s*\S|PRIVATE KEY-----|\$[0-9a-z]+\$[./0-9A-Za-z$]{16}`
)

// holds gives a look at the content by a regular expression.
func holds(pattern string) func(string, []byte) string {
	re := regexp.MustCompile(pattern)
	return func(what string, content []byte) string {
		if re.Match(content) {
			return what
		}
		return ""
	}
}

var privateKey = regexp.MustCompile(`(?m)^-----BEGIN [A-Z0-9 ]*PRIVATE KEY|^PuTTY-User-Key-File|^-----BEGIN OpenVPN Static key`)

func holdsKey(what string, content []byte) string {
	if privateKey.Match(content) {
		return what
	}
	return ""
}

// passwordHashes names the accounts that have one in shadow(5)'s form; "*",
// "!" and what begins with them are none.
func passwordHashes(what string, content []byte) string {
	var names []string
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) >= 2 && len(fields[1]) > 1 && !strings.HasPrefix(fields[1], "*") && strings.Trim(fields[1], "!x*") != "" {
			names = append(names, printable(fields[0]))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return what + " of " + strings.Join(names[:min(len(names), 8)], ", ")
}

func bootAccount(what string, content []byte) string {
	if name, hash, ok := strings.Cut(strings.TrimSpace(string(content)), ":"); ok && hash != "" {
		return what + " of " + printable(name)
	}
	return ""
}

// printable keeps what an image says from writing over the terminal.
func printable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s[:min(len(s), 64)])
}

// bootPlaces are where boot partitions are mounted.
var bootPlaces = []string{"/boot/firmware", "/boot"}

// Private says whether private things are kept at a path, whatever is there.
func Private(p string) bool {
	parts := components(path.Clean("/" + p))
	if len(parts) == 0 {
		return false
	}
	return slices.ContainsFunc(patternsBelow()[parts[0]], func(pattern []string) bool { return matches(pattern, parts) })
}

// publicPatterns are files that are closed to others, and hold no secret: who
// looks for what an image allows wants to read them.
var publicPatterns = []string{"/etc/sudoers", "/etc/sudoers.d/*", "/root/.ssh/authorized_keys", "/home/*/.ssh/authorized_keys"}

// Public says whether what is kept at a path is no secret, although it may be
// closed to others: who may do what, and with which public keys.
func Public(p string) bool {
	parts := components(path.Clean("/" + p))
	return slices.ContainsFunc(publicPatterns, func(pattern string) bool { return matches(components(pattern), parts) })
}

// patternsBelow are the rules' patterns by their first component, which is
// never one with a *: most files of an image lie below none of them.
var patternsBelow = sync.OnceValue(func() map[string][][]string {
	below := map[string][][]string{}
	for _, r := range privateRules {
		for _, pattern := range r.patterns() {
			parts := components(pattern)
			below[parts[0]] = append(below[parts[0]], parts)
		}
	}
	return below
})

func (r privateRule) patterns() []string {
	rest, ok := strings.CutPrefix(r.pattern, "BOOT/")
	if !ok {
		return []string{r.pattern}
	}
	all := []string{"/" + rest} // in the boot partition alone
	for _, dir := range bootPlaces {
		all = append(all, dir+"/"+rest)
	}
	return all
}

func matches(pattern, parts []string) bool {
	for i, want := range pattern {
		if want == "**" {
			if i == len(pattern)-1 {
				return len(parts) > i
			}
			for skip := i; skip <= len(parts); skip++ {
				if matches(pattern[i+1:], parts[skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(parts) {
			return false
		}
		if ok, err := path.Match(want, parts[i]); err != nil || !ok {
			return false
		}
	}
	return len(parts) == len(pattern)
}

const (
	// mostPrivate bounds how many files are looked at, and reported.
	mostPrivate = 4096
	// mostSecret bounds what is read of one; what holds secrets is small.
	mostSecret = 1 << 20
)

// FindPrivate lists the private files of a tree, sorted by path. They are
// found by rule, so that those of foreign images are found too, and no longer
// than where the rules lead.
func FindPrivate(ctx context.Context, t Tree) ([]PrivateFile, error) {
	f := finder{tree: t, ctx: ctx, found: map[string]string{}}
	for _, r := range privateRules {
		for _, pattern := range r.patterns() {
			if err := f.expand(r, "/", components(pattern), 0); err != nil {
				return nil, fmt.Errorf("cannot look for private files: %w", err)
			}
		}
	}
	var list []PrivateFile
	for p, what := range f.found {
		list = append(list, PrivateFile{p, what})
	}
	slices.SortFunc(list, func(a, b PrivateFile) int { return strings.Compare(a.Path, b.Path) })
	return list, nil
}

type finder struct {
	tree   Tree
	ctx    context.Context
	looked int
	found  map[string]string
}

// deepest bounds how far ** leads down.
const deepest = 8

// expand follows a pattern down the tree. What cannot be read is passed over.
func (f *finder) expand(r privateRule, dir string, pattern []string, depth int) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	if f.looked > mostPrivate || depth > deepest {
		return nil
	}
	want, rest := pattern[0], pattern[1:]
	if !strings.Contains(want, "*") {
		n, err := Stat(f.tree, path.Join(dir, want))
		if err != nil {
			return nil
		}
		return f.step(r, n, rest, depth)
	}
	nodes, err := f.tree.ReadDir(dir)
	if err != nil {
		return nil
	}
	if want == "**" && len(rest) > 0 { // no folder at all
		if err := f.expand(r, dir, rest, depth); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		switch {
		case want == "**" && n.IsDir():
			if err := f.expand(r, n.Path, pattern, depth+1); err != nil {
				return err
			}
		case want == "**":
			if len(rest) == 0 {
				f.look(r, n)
			}
		default:
			if ok, _ := path.Match(want, path.Base(n.Path)); !ok {
				continue
			}
			if n.Mode&fs.ModeSymlink != 0 {
				if n, err = Stat(f.tree, n.Path); err != nil {
					continue
				}
			}
			if err := f.step(r, n, rest, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *finder) step(r privateRule, n Node, rest []string, depth int) error {
	if len(rest) > 0 {
		if !n.IsDir() {
			return nil
		}
		return f.expand(r, n.Path, rest, depth)
	}
	f.look(r, n)
	return nil
}

// look decides about one file.
func (f *finder) look(r privateRule, n Node) {
	f.looked++
	if !n.Mode.IsRegular() || f.found[n.Path] != "" || f.looked > mostPrivate {
		return
	}
	what := r.what
	if r.says != nil {
		content, err := ReadFile(f.tree, n.Path, mostSecret)
		if err != nil {
			return
		}
		what = r.says(r.what, content)
	} else if n.Size == 0 {
		return
	}
	if what != "" {
		f.found[n.Path] = what
	}
}
