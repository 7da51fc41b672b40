package adoption

import (
	"encoding/json"
	"time"

	"github.com/docker/docker/api/types/swarm"
)

// What the swarm does where a service says nothing. `docker service inspect` prints
// it as if the service had said so (swarmkit, api/defaults).
const (
	usualGrace   = 10 * time.Second
	usualDelay   = 5 * time.Second
	usualMonitor = 5 * time.Second
)

// withoutDefaults is a copy of a service's spec without what is the swarm's anyway.
func withoutDefaults(s swarm.ServiceSpec) swarm.ServiceSpec {
	raw, err := json.Marshal(s)
	var own swarm.ServiceSpec
	if err != nil || json.Unmarshal(raw, &own) != nil {
		return s
	}
	if c := own.TaskTemplate.ContainerSpec; c != nil && c.StopGracePeriod != nil && *c.StopGracePeriod == usualGrace {
		c.StopGracePeriod = nil
	}
	if r := own.TaskTemplate.RestartPolicy; r != nil {
		if r.Delay != nil && *r.Delay == usualDelay {
			r.Delay = nil
		}
		if r.Delay == nil && (r.Condition == "" || r.Condition == swarm.RestartPolicyConditionAny) &&
			(r.MaxAttempts == nil || *r.MaxAttempts == 0) && (r.Window == nil || *r.Window == 0) {
			own.TaskTemplate.RestartPolicy = nil
		}
	}
	own.UpdateConfig, own.RollbackConfig = unusual(own.UpdateConfig), unusual(own.RollbackConfig)
	if e := own.EndpointSpec; e != nil && e.Mode == swarm.ResolutionModeVIP {
		e.Mode = ""
	}
	return own
}

func unusual(u *swarm.UpdateConfig) *swarm.UpdateConfig {
	if u == nil {
		return nil
	}
	if u.Monitor == usualMonitor {
		u.Monitor = 0
	}
	if u.FailureAction == swarm.UpdateFailureActionPause {
		u.FailureAction = ""
	}
	if u.Order == swarm.UpdateOrderStopFirst {
		u.Order = ""
	}
	if *u == (swarm.UpdateConfig{Parallelism: 1}) {
		return nil
	}
	return u
}
