package adoption

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/swarm"
)

// plain is a service's spec as a tree, without what Docker fills in itself and
// with nothing that says nothing, so that two of them can be compared: IDs are
// names, and what has no order is in one.
func (v *visit) plain(s swarm.ServiceSpec) any {
	own := withoutDefaults(s)
	t := &own.TaskTemplate
	t.ForceUpdate, t.Runtime = 0, ""
	own.Labels = ownLabels(own.Labels)
	if c := t.ContainerSpec; c != nil {
		c.Image = imageOf(s)
		if c.Isolation == "default" {
			c.Isolation = ""
		}
		slices.Sort(c.Env)
		for _, r := range c.Secrets {
			r.SecretID = ""
		}
		for _, r := range c.Configs {
			r.ConfigID = ""
		}
		slices.SortFunc(c.Secrets, func(a, b *swarm.SecretReference) int {
			return cmp.Compare(fmt.Sprint(a.SecretName, a.File), fmt.Sprint(b.SecretName, b.File))
		})
		slices.SortFunc(c.Configs, func(a, b *swarm.ConfigReference) int {
			return cmp.Compare(fmt.Sprint(a.ConfigName, a.File), fmt.Sprint(b.ConfigName, b.File))
		})
	}
	if t.Placement != nil {
		t.Placement.Platforms = nil // of the image, when it was looked up
	}
	for i := range t.Networks {
		for _, n := range v.networks {
			if n.ID == t.Networks[i].Target {
				t.Networks[i].Target = n.Name
			}
		}
		slices.Sort(t.Networks[i].Aliases)
	}
	slices.SortFunc(t.Networks, func(a, b swarm.NetworkAttachmentConfig) int { return cmp.Compare(a.Target, b.Target) })
	if e := own.EndpointSpec; e != nil {
		for i := range e.Ports {
			p := &e.Ports[i]
			p.Protocol, p.PublishMode = cmp.Or(p.Protocol, swarm.PortConfigProtocolTCP), cmp.Or(p.PublishMode, swarm.PortConfigPublishModeIngress)
		}
		slices.SortFunc(e.Ports, func(a, b swarm.PortConfig) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	}
	raw, err := json.Marshal(own)
	var tree any
	if err != nil || json.Unmarshal(raw, &tree) != nil {
		return nil
	}
	pruned, _ := prune(tree)
	return pruned
}

// prune takes out of a tree what is empty.
func prune(value any) (any, bool) {
	switch v := value.(type) {
	case map[string]any:
		for key, each := range v {
			if left, some := prune(each); some {
				v[key] = left
			} else {
				delete(v, key)
			}
		}
		return v, len(v) > 0
	case []any:
		for i := range v {
			v[i], _ = prune(v[i])
		}
		return v, len(v) > 0
	case string:
		return v, v != ""
	case bool:
		return v, v
	case nil:
		return v, false
	}
	return value, true
}

// differences are the paths at which two trees differ, without what is there: it
// may be a password.
func differences(a, b any) []string {
	var found []string
	var walk func(path string, a, b any)
	walk = func(path string, a, b any) {
		if reflect.DeepEqual(a, b) {
			return
		}
		x, xm := a.(map[string]any)
		y, ym := b.(map[string]any)
		if xm && ym || xm && b == nil || ym && a == nil {
			for key := range x {
				walk(path+"."+key, x[key], y[key])
			}
			for key := range y {
				if _, both := x[key]; !both {
					walk(path+"."+key, nil, y[key])
				}
			}
			return
		}
		xl, xs := a.([]any)
		yl, ys := b.([]any)
		if xs && ys && len(xl) == len(yl) {
			for i := range xl {
				walk(path+"["+strconv.Itoa(i)+"]", xl[i], yl[i])
			}
			return
		}
		if n, zero := a.(float64); zero && n == 0 && b == nil {
			return
		}
		if n, zero := b.(float64); zero && n == 0 && a == nil {
			return
		}
		found = append(found, strings.TrimPrefix(path, "."))
	}
	walk("", a, b)
	return found
}
