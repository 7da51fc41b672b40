package stack

import (
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/docker/api/types/container"
)

func ulimits(limits map[string]*types.UlimitsConfig) []*container.Ulimit {
	out := []*container.Ulimit{}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		u := limits[name]
		if u == nil {
			continue
		}
		l := &container.Ulimit{Name: name, Soft: int64(u.Soft), Hard: int64(u.Hard)}
		if u.Single != 0 {
			l.Soft, l.Hard = int64(u.Single), int64(u.Single)
		}
		out = append(out, l)
	}
	return out
}

// capabilities are lists of capabilities as the swarm has them: with CAP_, in
// order, ALL in the place of all others, and none in both.
func capabilities(add, drop []string) (added, dropped []string) {
	set := func(list []string) map[string]bool {
		m := map[string]bool{}
		for _, name := range list {
			name = strings.ToUpper(strings.TrimSpace(name))
			if name != "ALL" && name != "RESET" && !strings.HasPrefix(name, "CAP_") {
				name = "CAP_" + name
			}
			m[name] = true
		}
		if m["ALL"] {
			m = map[string]bool{"ALL": true}
		}
		delete(m, "RESET")
		return m
	}
	a, d := set(add), set(drop)
	maps.DeleteFunc(d, func(name string, _ bool) bool { return a[name] })
	return slices.Sorted(maps.Keys(a)), slices.Sorted(maps.Keys(d))
}
