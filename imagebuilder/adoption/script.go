package adoption

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Shell runs a script on the controller, as `sh -s` does with it on stdin, and
// gives what it printed.
type Shell func(ctx context.Context, script io.Reader) ([]byte, error)

// lookAround is all that is run on the controller. It needs no root and writes
// nothing; what of it fails there is missing, and said to be. Each part's output
// stands between two lines that only this run has.
const lookAround = `
set -u
export LC_ALL=C PATH="$PATH:/usr/sbin:/sbin"
part() {
	name=$1
	shift
	printf '\n%s begin %s\n' "$mark" "$name"
	"$@"
	printf '\n%s end %s %d\n' "$mark" "$name" "$?"
}
all() {
	kind=$1
	ids=$($docker "$kind" ls -q </dev/null) || return
	[ -z "$ids" ] || $docker "$kind" inspect $ids </dev/null
}
attached() {
	ids=$($docker service ls -q </dev/null) || return
	[ -z "$ids" ] || ids=$($docker service inspect --format '{{range .Spec.TaskTemplate.Networks}}{{println .Target}}{{end}}' $ids </dev/null | sort -u)
	[ -z "$ids" ] || $docker network inspect $ids </dev/null || true
}
links() {
	for link in /sys/class/net/*; do
		master=
		[ ! -e "$link/master" ] || master=$(basename "$(readlink "$link/master")")
		printf '%s %s %s\n' "$(basename "$link")" "$(cat "$link/address")" "$master"
	done
}
zone() { cat /etc/timezone || readlink /etc/localtime; }
part user id -un
part hostname hostname
part domain hostname -d
part machine uname -m
part model cat /proc/device-tree/model
part release cat /etc/os-release
part zone zone
part locale cat /etc/default/locale
part keys cat "${HOME:-/}/.ssh/authorized_keys"
part links links
part addresses ip -4 -o address show
part routes ip -4 route show default
part neighbours ip -4 neighbour show
part info $docker info --format '{{json .}}'
part nodes all node
part services all service
part networks all network
part attached attached
part secrets all secret
part configs all config
part whole true
`

// MaxAnswer is what a controller may answer at most: configs of 1 MB each are the
// most of it.
const MaxAnswer = 64 << 20

// parts are what the script's parts printed, by their names. One that failed is
// not among them.
type parts map[string][]byte

// look runs the script. With sudo, Docker is asked as root, by `sudo -n`.
func look(ctx context.Context, shell Shell, sudo bool) (parts, error) {
	random := make([]byte, 16)
	if _, err := rand.Read(random); err != nil {
		return nil, err
	}
	mark, docker := "hatchery-"+hex.EncodeToString(random), "docker"
	if sudo {
		docker = "sudo -n docker"
	}
	script := "mark=" + mark + "\ndocker='" + docker + "'\n" + lookAround
	answer, err := shell(ctx, strings.NewReader(script))
	if err != nil {
		return nil, err
	}
	if len(answer) > MaxAnswer {
		return nil, fmt.Errorf("it answered more than %d MiB: this is no ClusterHAT's controller", MaxAnswer>>20)
	}
	return splitAnswer(answer, mark)
}

func splitAnswer(answer []byte, mark string) (parts, error) {
	found := parts{}
	lines := bufio.NewReader(bytes.NewReader(answer))
	name, body := "", []byte(nil)
	for {
		line, err := lines.ReadBytes('\n')
		words := strings.Fields(string(line[:min(len(line), 200)]))
		switch {
		case len(words) == 3 && words[0] == mark && words[1] == "begin":
			name, body = words[2], nil
		case len(words) == 4 && words[0] == mark && words[1] == "end" && words[2] == name:
			if status, _ := strconv.Atoi(words[3]); status == 0 {
				found[name] = bytes.TrimSuffix(body, []byte("\n")) // the one before the mark
			}
			name = ""
		case name != "":
			body = append(body, line...)
		}
		if err != nil {
			break
		}
	}
	if _, all := found["whole"]; !all {
		return nil, errors.New("its answer breaks off: is there a shell for the user that ssh logs in as?")
	}
	return found, nil
}

// text is a part in one line, without the zero that the device tree ends texts
// with.
func (p parts) text(name string) string {
	return printable(strings.TrimSpace(strings.TrimRight(string(p[name]), "\x00\n ")))
}

// setting is a variable of a file of NAME=value lines.
func (p parts) setting(part, name string) string {
	for line := range strings.Lines(string(p[part])) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			return printable(strings.Trim(value, `"'`))
		}
	}
	return ""
}
