package stack

import (
	"maps"
	"slices"
	"strings"
)

// ignored are the keys of a service that `docker stack deploy` takes and makes
// nothing of (docker/cli, cli/compose/types, UnsupportedProperties and
// DeprecatedProperties; and those that its conversion does not look at), with
// what to do instead. `restart` stands in docker's list too, but is heeded
// where deploy.restart_policy is not there.
var ignored = map[string]string{
	"build":           "images are not built here: build and push it beforehand, and leave this out",
	"cgroup_parent":   "leave it out",
	"cgroupns_mode":   "leave it out",
	"container_name":  "the tasks of a service get names of their own, and other services reach it by the service's: leave it out",
	"credential_spec": "it is for Windows only: leave it out",
	"depends_on":      "services start in any order: let the program wait for what it needs, and leave this out",
	"devices":         "a service has no devices of its node: bind mount the device's folder, or run the container outside of the swarm",
	"domainname":      "put the domain into hostname",
	"expose":          "services on the same network reach all of each other's ports: leave it out",
	"external_links":  "give both services a network that is external: true",
	"ipc":             "leave it out",
	"isolation":       "it is for Windows only: leave it out",
	"links":           "services on the same network reach each other by name: leave it out",
	"mac_address":     "leave it out",
	"network_mode":    "use networks: (for the node's own network: a network with `name: host` and `external: true`)",
	"pid":             "leave it out",
	"privileged":      "a service cannot be: take single capabilities with cap_add",
	"security_opt":    "leave it out",
	"shm_size":        "use volumes: [{type: tmpfs, target: /dev/shm, tmpfs: {size: …}}]",
	"tmpfs":           "use volumes: [{type: tmpfs, target: …}]",
	"userns_mode":     "leave it out",
}

// forbidden are the keys of a service that `docker stack deploy` refuses by
// name, or does not know though Docker Compose does.
var forbidden = map[string]string{
	"blkio_config":        "the swarm has no such limit: leave it out",
	"cpu_count":           "set limits in deploy.resources.limits",
	"cpu_percent":         "set limits in deploy.resources.limits",
	"cpu_period":          "set limits in deploy.resources.limits",
	"cpu_quota":           "set limits in deploy.resources.limits",
	"cpu_shares":          "set limits in deploy.resources.limits",
	"cpus":                "set deploy.resources.limits.cpus",
	"cpuset":              "set limits in deploy.resources.limits",
	"develop":             "it is Docker Compose's: leave it out",
	"device_cgroup_rules": "leave it out",
	"dns_opt":             "leave it out",
	"extends":             "other files are not read: write it out (`docker compose config` prints the outcome)",
	"gpus":                "leave it out",
	"group_add":           "set user: UID:GID",
	"label_file":          "write the labels out",
	"logs":                "it is called logging",
	"mem_limit":           "set deploy.resources.limits.memory",
	"mem_reservation":     "set deploy.resources.reservations.memory",
	"mem_swappiness":      "leave it out",
	"memswap_limit":       "set deploy.resources.limits.memory",
	"oom_kill_disable":    "leave it out",
	"pids_limit":          "set deploy.resources.limits.pids",
	"platform":            "where a service runs, a constraint says: deploy.placement.constraints: [node.labels.hatchery.arch == …]",
	"post_start":          "it is Docker Compose's: leave it out",
	"pre_start":           "it is Docker Compose's: leave it out",
	"pre_stop":            "it is Docker Compose's: leave it out",
	"profiles":            "put the services into a stack file of their own",
	"pull_policy":         "leave it out: the engines fetch what they lack",
	"replicas":            "it belongs under deploy",
	"runtime":             "leave it out",
	"scale":               "set deploy.replicas",
	"storage_opt":         "leave it out",
	"uts":                 "leave it out",
	"volume_driver":       "name the driver of the volume in the top-level volumes",
	"volumes_from":        "name the volume in the top-level volumes, and in each service that shares it",
}

// topForbidden are keys of the file that are Docker Compose's.
var topForbidden = map[string]string{
	"extends": "other files are not read: write it out (`docker compose config` prints the outcome)",
	"include": "other files are not read: write it out (`docker compose config` prints the outcome)",
	"models":  "it is Docker Compose's: leave it out",
	"name":    "a stack is called as its file is: leave this out",
}

// unknown tells of a key that the schema does not have.
func (d *document) unknown(path []string) {
	last := path[len(path)-1]
	text := ""
	switch {
	case len(path) == 1:
		text = topForbidden[last]
	case len(path) == 3 && path[0] == "services":
		text = forbidden[last]
	case len(path) == 3 && path[0] == "networks" && last == "enable_ipv6":
		text = "leave it out"
	case len(path) == 3 && (path[0] == "secrets" || path[0] == "configs") && (last == "environment" || last == "content"):
		text = "declare it in the " + path[0] + " of cluster.yaml, which take variables, and make it external: true here"
	case slices.Contains(path, "bind") && last == "create_host_path":
		text = "the folder has to be there on the node: leave this out"
	case slices.Contains(path, "ports") && last == "host_ip":
		text = "a service's port is published on all addresses of a node: leave it out"
	case slices.Contains(path, "resources") && last == "devices":
		text = "leave it out"
	}
	switch {
	case text != "":
		d.problem(path, "`docker stack deploy` refuses it: %s", text)
	default:
		if near := nearest(last, known(path[:len(path)-1])); near != "" {
			d.problem(path, "there is no such key: is %s meant?", near)
			return
		}
		d.problem(path, "there is no such key: leave it out (keys of your own begin with x-)")
	}
}

// known are the keys that the file's other parts of this kind have, and those
// of services, for a guess at what was meant.
func known(parent []string) []string {
	switch {
	case len(parent) == 0:
		return []string{"services", "networks", "volumes", "secrets", "configs"}
	case len(parent) == 2 && parent[0] == "services":
		keys := slices.Collect(maps.Keys(ignored))
		keys = append(keys, "cap_add", "cap_drop", "command", "configs", "deploy", "dns", "dns_search", "entrypoint", "env_file", "environment",
			"extra_hosts", "healthcheck", "hostname", "image", "init", "labels", "logging", "networks", "oom_score_adj", "ports", "read_only",
			"restart", "secrets", "stdin_open", "stop_grace_period", "stop_signal", "sysctls", "tty", "ulimits", "user", "volumes", "working_dir")
		slices.Sort(keys)
		return keys
	case len(parent) == 3 && parent[2] == "deploy":
		return []string{"endpoint_mode", "labels", "mode", "placement", "replicas", "resources", "restart_policy", "rollback_config", "update_config"}
	case len(parent) == 4 && parent[3] == "placement":
		return []string{"constraints", "max_replicas_per_node", "preferences"}
	case len(parent) == 3 && parent[2] == "healthcheck":
		return []string{"disable", "interval", "retries", "start_interval", "start_period", "test", "timeout"}
	}
	return nil
}

// nearest is the word that is at most two letters from another.
func nearest(word string, words []string) string {
	best, least := "", 3
	for _, w := range words {
		if n := distance(strings.ToLower(word), w); n < least && n < len(w) {
			best, least = w, n
		}
	}
	return best
}

func distance(a, b string) int {
	if len(a) > 40 || len(b) > 40 {
		return 40
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left, diagonal := i+1, i
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			left = min(cost, left+1, row[j+1]+1)
			row[j+1] = left
		}
		row[0] = i + 1
	}
	return row[len(b)]
}

// swarmWay says how swarm mode has something that Docker Compose has in another
// way; "" for all else.
func swarmWay(path []string, value any) string {
	if len(path) != 3 || path[0] != "services" {
		return ""
	}
	if _, mapping := value.(map[string]any); !mapping {
		return ""
	}
	switch path[2] {
	case "depends_on":
		return "swarm mode has no conditions, and starts services in any order: let the program wait for what it needs, and leave this out"
	case "env_file":
		return "a file's name, or a list of them, is expected"
	}
	return ""
}
