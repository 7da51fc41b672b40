package adoption

import (
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/swarm"
)

// deploy is how a service is placed, limited and renewed.
func deploy(s swarm.ServiceSpec) *mapping {
	m := &mapping{}
	switch mode := s.Mode; {
	case mode.Global != nil:
		m.set("mode", "global")
	case mode.GlobalJob != nil:
		m.set("mode", "global-job")
	case mode.ReplicatedJob != nil:
		m.set("mode", "replicated-job")
		m.counted("replicas", mode.ReplicatedJob.TotalCompletions)
	case mode.Replicated != nil:
		m.counted("replicas", mode.Replicated.Replicas)
	}
	m.some("labels", saidPairs(without(s.Labels)))
	if e := s.EndpointSpec; e != nil && e.Mode != "" && e.Mode != swarm.ResolutionModeVIP {
		m.set("endpoint_mode", string(e.Mode))
	}
	if p := s.TaskTemplate.Placement; p != nil {
		placement := &mapping{}
		placement.some("constraints", saidAll(p.Constraints))
		var spread list
		for _, preference := range p.Preferences {
			if preference.Spread != nil {
				one := &mapping{}
				one.set("spread", said(preference.Spread.SpreadDescriptor))
				spread = append(spread, one)
			}
		}
		placement.some("preferences", spread)
		if p.MaxReplicas != 0 {
			placement.set("max_replicas_per_node", p.MaxReplicas)
		}
		m.some("placement", placement)
	}
	m.some("resources", resources(s.TaskTemplate.Resources))
	if r := s.TaskTemplate.RestartPolicy; r != nil {
		policy := &mapping{}
		policy.some("condition", string(r.Condition))
		policy.some("delay", lapse(r.Delay))
		policy.counted("max_attempts", r.MaxAttempts)
		policy.some("window", lapse(r.Window))
		m.some("restart_policy", policy)
	}
	m.some("update_config", renewal(s.UpdateConfig))
	m.some("rollback_config", renewal(s.RollbackConfig))
	return m
}

func resources(r *swarm.ResourceRequirements) *mapping {
	m := &mapping{}
	if r == nil {
		return m
	}
	if l := r.Limits; l != nil {
		limits := amounts(l.NanoCPUs, l.MemoryBytes)
		if l.Pids != 0 {
			limits.set("pids", l.Pids)
		}
		m.some("limits", limits)
	}
	if l := r.Reservations; l != nil {
		reservations := amounts(l.NanoCPUs, l.MemoryBytes)
		var generic list
		for _, g := range l.GenericResources {
			if d := g.DiscreteResourceSpec; d != nil {
				one, outer := &mapping{}, &mapping{}
				one.set("kind", said(d.Kind))
				one.set("value", d.Value)
				outer.set("discrete_resource_spec", one)
				generic = append(generic, outer)
			}
		}
		reservations.some("generic_resources", generic)
		m.some("reservations", reservations)
	}
	return m
}

func amounts(nano, memory int64) *mapping {
	m := &mapping{}
	if nano != 0 {
		text := strconv.FormatInt(nano/1e9, 10)
		if rest := nano % 1e9; rest != 0 {
			digits := strconv.FormatInt(1e9+rest, 10)
			text += "." + strings.TrimRight(digits[1:], "0")
		}
		m.set("cpus", text)
	}
	if memory != 0 {
		m.set("memory", strconv.FormatInt(memory, 10)+"b")
	}
	return m
}

func renewal(u *swarm.UpdateConfig) *mapping {
	m := &mapping{}
	if u == nil {
		return m
	}
	m.set("parallelism", u.Parallelism)
	m.lasting("delay", u.Delay)
	m.some("failure_action", u.FailureAction)
	m.lasting("monitor", u.Monitor)
	if u.MaxFailureRatio != 0 {
		m.set("max_failure_ratio", float64(u.MaxFailureRatio))
	}
	m.some("order", u.Order)
	return m
}
