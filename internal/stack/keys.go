package stack

import "regexp"

// What swarm mode's reader of stack files knows: the keys of each part, and what
// can stand at them. A key that it takes and makes nothing of is in ignored, with
// what to do instead; one that it refuses though Docker Compose knows it is in
// refused. TestShapes compares all of it with docker/cli's own judgement.

var (
	letters      = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)
	smallLetters = regexp.MustCompile(`^[a-z]+$`)
)

// Shapes that stand in many places.
var (
	text      = &shape{takes: aText}
	whole     = &shape{takes: aWhole}
	number    = &shape{takes: aNumber}
	truth     = &shape{takes: aTruth}
	lapse     = &shape{takes: aText, check: lapseCheck}
	order     = &shape{takes: aText, check: oneOf("start-first", "stop-first")}
	words     = &shape{takes: aList, each: text}
	set       = &shape{takes: aList, each: text, unique: true}
	oneOrSet  = &shape{takes: aText | aList, each: text, unique: true}
	oneOrMore = &shape{takes: aText | aList, each: text}
	values    = &shape{takes: aMapping, others: &shape{takes: aText | aNumber | nothing}}
	drivers   = &shape{takes: aMapping, others: &shape{takes: aText | aNumber}}
	pairs     = &shape{takes: aMapping | aList, each: text, unique: true, others: &shape{takes: aText | aNumber | nothing}}
	external  = &shape{takes: aTruth | aMapping, keys: map[string]*shape{"name": text}}
)

// named is a part of the file whose keys are names.
func named(each *shape) *shape { return &shape{takes: aMapping, others: each, called: letters} }

var fileShape = &shape{
	takes: aMapping, own: true,
	keys: map[string]*shape{
		"services": named(serviceShape),
		"networks": named(networkShape),
		"volumes":  named(volumeShape),
		"secrets":  named(secretShape),
		"configs":  named(configShape),
		"version":  text,
	},
	refused: map[string]string{
		"extends": "other files are not read: write it out (`docker compose config` prints the outcome)",
		"include": "other files are not read: write it out (`docker compose config` prints the outcome)",
		"models":  "it is Docker Compose's: leave it out",
		"name":    "a stack is called as its file is: leave this out",
	},
}

var serviceShape = &shape{
	takes: aMapping, own: true,
	keys: map[string]*shape{
		"build":             buildShape,
		"cap_add":           set,
		"cap_drop":          set,
		"cgroup_parent":     text,
		"cgroupns_mode":     text,
		"command":           oneOrMore,
		"configs":           references,
		"container_name":    text,
		"credential_spec":   {takes: aMapping, keys: map[string]*shape{"config": text, "file": text, "registry": text}},
		"depends_on":        set,
		"deploy":            deployShape,
		"devices":           set,
		"dns":               oneOrSet,
		"dns_search":        oneOrSet,
		"domainname":        text,
		"entrypoint":        oneOrMore,
		"env_file":          oneOrSet,
		"environment":       pairs,
		"expose":            {takes: aList, each: &shape{takes: aText | aNumber}, unique: true},
		"external_links":    set,
		"extra_hosts":       pairs,
		"healthcheck":       healthcheckShape,
		"hostname":          text,
		"image":             text,
		"init":              truth,
		"ipc":               text,
		"isolation":         text,
		"labels":            pairs,
		"links":             set,
		"logging":           {takes: aMapping, keys: map[string]*shape{"driver": text, "options": values}},
		"mac_address":       text,
		"network_mode":      text,
		"networks":          {takes: aMapping | aList, each: text, unique: true, others: attachmentShape, called: letters},
		"oom_score_adj":     whole,
		"pid":               {takes: aText | nothing},
		"ports":             {takes: aList, each: portShape, unique: true},
		"privileged":        truth,
		"read_only":         truth,
		"restart":           text,
		"secrets":           references,
		"security_opt":      set,
		"shm_size":          {takes: aText | aNumber},
		"stdin_open":        truth,
		"stop_grace_period": lapse,
		"stop_signal":       text,
		"sysctls":           pairs,
		"tmpfs":             oneOrSet,
		"tty":               truth,
		"ulimits":           {takes: aMapping, others: ulimitShape, called: smallLetters},
		"user":              text,
		"userns_mode":       text,
		"volumes":           {takes: aList, each: mountShape, unique: true},
		"working_dir":       text,
	},
	ignored: map[string]string{
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
	},
	refused: map[string]string{
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
		"volumes_from":        "give the services a volume of the top-level volumes",
	},
}

var buildShape = &shape{
	takes: aText | aMapping, others: &shape{takes: anything},
	keys: map[string]*shape{
		"args": pairs, "cache_from": set, "context": text, "dockerfile": text, "extra_hosts": pairs, "labels": pairs, "network": text,
		"shm_size": {takes: aText | aWhole}, "target": text,
	},
}

var references = &shape{takes: aList, each: &shape{
	takes: aText | aMapping,
	keys:  map[string]*shape{"source": text, "target": text, "uid": text, "gid": text, "mode": number},
}}

var attachmentShape = &shape{
	takes: aMapping | nothing,
	keys:  map[string]*shape{"aliases": set, "driver_opts": drivers, "ipv4_address": text, "ipv6_address": text},
	ignored: map[string]string{
		"ipv4_address": "the swarm gives tasks their addresses; leave it out",
		"ipv6_address": "the swarm gives tasks their addresses; leave it out",
	},
	refused: map[string]string{
		"gw_priority":    "leave it out",
		"interface_name": "leave it out",
		"link_local_ips": "the swarm gives tasks their addresses; leave it out",
		"mac_address":    "leave it out",
		"priority":       "leave it out",
	},
}

var portShape = &shape{
	takes: aText | aNumber | aMapping, check: portCheck,
	keys: map[string]*shape{"mode": text, "target": whole, "published": whole, "protocol": text},
	refused: map[string]string{
		"app_protocol": "leave it out",
		"host_ip":      "a service's port is published on all addresses of a node: leave it out",
		"name":         "leave it out",
	},
}

var ulimitShape = &shape{
	takes: aWhole | aMapping, needs: []string{"soft", "hard"},
	keys: map[string]*shape{"soft": whole, "hard": whole},
}

var mountShape = &shape{
	takes: aText | aMapping, needs: []string{"type"},
	keys: map[string]*shape{
		"type": text, "source": text, "target": text, "read_only": truth, "consistency": text,
		"bind": {
			takes: aMapping, keys: map[string]*shape{"propagation": text},
			ignored: map[string]string{
				"create_host_path": "the folder has to be there on the node; leave this out",
				"recursive":        "leave it out",
				"selinux":          "leave it out",
			},
		},
		"volume": {
			takes: aMapping, keys: map[string]*shape{"nocopy": truth, "subpath": text},
			ignored: map[string]string{"labels": "give them to the volume in the top-level volumes"},
		},
		"tmpfs": {
			takes: aMapping, keys: map[string]*shape{"size": {takes: aWhole, check: sizeCheck}},
			ignored: map[string]string{"mode": "leave it out"},
		},
	},
	refused: map[string]string{"image": "volumes of type image are not for this cluster: leave it out"},
}

var healthcheckShape = &shape{
	takes: aMapping,
	keys: map[string]*shape{
		"disable": truth, "interval": lapse, "retries": number, "start_interval": lapse, "start_period": lapse, "test": oneOrMore, "timeout": lapse,
	},
}

var deployShape = &shape{
	takes: aMapping | nothing,
	keys: map[string]*shape{
		"endpoint_mode": text,
		"labels":        pairs,
		"mode":          text,
		"placement": {
			takes: aMapping,
			keys: map[string]*shape{
				"constraints":           words,
				"max_replicas_per_node": whole,
				"preferences":           {takes: aList, each: &shape{takes: aMapping, keys: map[string]*shape{"spread": text}}},
			},
		},
		"replicas": whole,
		"resources": {
			takes: aMapping,
			keys: map[string]*shape{
				"limits":       {takes: aMapping, keys: map[string]*shape{"cpus": text, "memory": text, "pids": whole}},
				"reservations": reservationsShape,
			},
		},
		"restart_policy": {
			takes: aMapping,
			keys:  map[string]*shape{"condition": text, "delay": lapse, "max_attempts": whole, "window": lapse},
		},
		"rollback_config": updateShape,
		"update_config":   updateShape,
	},
}

var reservationsShape = &shape{
	takes: aMapping,
	keys: map[string]*shape{
		"cpus": text, "memory": text,
		"generic_resources": {takes: aList, each: &shape{
			takes: aMapping,
			keys: map[string]*shape{
				"discrete_resource_spec": {takes: aMapping, keys: map[string]*shape{"kind": text, "value": number}},
			},
		}},
	},
	refused: map[string]string{"devices": "leave it out"},
}

var updateShape = &shape{
	takes: aMapping,
	keys: map[string]*shape{
		"delay": lapse, "failure_action": text, "max_failure_ratio": number, "monitor": lapse, "order": order, "parallelism": whole,
	},
}

var networkShape = &shape{
	takes: aMapping | nothing, own: true,
	keys: map[string]*shape{
		"attachable": truth, "driver": text, "driver_opts": drivers, "external": external, "internal": truth, "labels": pairs, "name": text,
		"ipam": {
			takes: aMapping,
			keys: map[string]*shape{
				"driver": text,
				"config": {takes: aList, each: &shape{
					takes: aMapping, keys: map[string]*shape{"subnet": text},
					refused: map[string]string{"aux_addresses": "leave it out", "gateway": "leave it out", "ip_range": "leave it out"},
				}},
			},
			refused: map[string]string{"options": "leave it out"},
		},
	},
	refused: map[string]string{"enable_ipv4": "leave it out", "enable_ipv6": "leave it out"},
}

var volumeShape = &shape{
	takes: aMapping | nothing, own: true,
	keys:    map[string]*shape{"driver": text, "driver_opts": drivers, "external": external, "labels": pairs, "name": text},
	refused: map[string]string{"x-cluster-spec": "volumes of type cluster are not for this cluster: leave it out"},
}

var secretShape = &shape{
	takes: aMapping, own: true,
	keys: map[string]*shape{
		"driver": text, "driver_opts": drivers, "external": external, "file": text, "labels": pairs, "name": text, "template_driver": text,
	},
	refused: map[string]string{
		"content":     "declare it in the secrets of cluster.yaml, which take variables, and make it external: true here",
		"environment": "declare it in the secrets of cluster.yaml, which take variables, and make it external: true here",
	},
}

var configShape = &shape{
	takes: aMapping, own: true,
	keys: map[string]*shape{"external": external, "file": text, "labels": pairs, "name": text, "template_driver": text},
	refused: map[string]string{
		"content":     "declare it in the configs of cluster.yaml, which take variables, and make it external: true here",
		"environment": "declare it in the configs of cluster.yaml, which take variables, and make it external: true here",
	},
}
