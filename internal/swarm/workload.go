package swarm

import (
	"context"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/swarm"
)

// The modes of a service.
const (
	Replicated    = "replicated"
	Global        = "global"
	ReplicatedJob = "replicated-job"
	GlobalJob     = "global-job"
)

// A Task is one container of a service, on a node, as a manager sees it. Tasks
// that have ended are listed for a while.
type Task struct {
	ID        string
	ServiceID string
	NodeID    string // "" as long as it has none
	Replica   int    // counted from 1; 0 for a global service's
	Image     string // that the service names
	State     string // new … running … complete, shutdown, failed, rejected, remove, orphaned
	Desired   string // the state that the swarm wants
	Message   string
	Error     string // why it failed, in the engine's words
	ExitCode  int    // of a container that has ended
	Updated   time.Time
}

// There says whether a task has, or may get, a container: it has not ended.
func (t Task) There() bool {
	switch swarm.TaskState(t.State) {
	case swarm.TaskStateComplete, swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected,
		swarm.TaskStateRemove, swarm.TaskStateOrphaned:
		return false
	}
	return true
}

// A Service is a service of the swarm, and how many of its tasks run.
type Service struct {
	ID      string
	Name    string
	Mode    string // Replicated and so on, "" for one that this program does not know
	Image   string
	Running int // tasks that run, on nodes that are not down
	// Desired is how many should run: the replicas; of a global service, its
	// tasks that are not to end.
	Desired int
}

// Tasks are the tasks that a node has, those that have ended too; with node ""
// all of the swarm's. Only a manager can tell.
func (e *Engine) Tasks(ctx context.Context, node string) ([]Task, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	var which filters.Args
	doing := "listing the swarm's tasks"
	if node != "" {
		which = filters.NewArgs(filters.Arg("node", node))
		doing = "listing the tasks of node " + node
	}
	list, err := e.client.TaskList(limited, swarm.TaskListOptions{Filters: which})
	if err != nil {
		return nil, failed(ctx, doing, err)
	}
	tasks := []Task{}
	for _, t := range list {
		// The filter takes host names and beginnings of IDs too.
		if node == "" || t.NodeID == node {
			tasks = append(tasks, taskOf(t))
		}
	}
	return tasks, nil
}

// Services are the swarm's services, in no order. Only a manager can tell.
func (e *Engine) Services(ctx context.Context) ([]Service, error) {
	limited, cancel := context.WithTimeout(ctx, shortCall)
	defer cancel()
	list, err := e.client.ServiceList(limited, swarm.ServiceListOptions{Status: true})
	if err != nil {
		return nil, failed(ctx, "listing the swarm's services", err)
	}
	services := make([]Service, len(list))
	for i, s := range list {
		services[i] = serviceOf(s)
	}
	return services, nil
}

func taskOf(t swarm.Task) Task {
	task := Task{
		ID: t.ID, ServiceID: t.ServiceID, NodeID: t.NodeID, Replica: t.Slot,
		State: string(t.Status.State), Desired: string(t.DesiredState), Message: t.Status.Message, Error: t.Status.Err,
		Updated: t.UpdatedAt,
	}
	if c := t.Spec.ContainerSpec; c != nil {
		task.Image = c.Image
	}
	if c := t.Status.ContainerStatus; c != nil {
		task.ExitCode = c.ExitCode
	}
	return task
}

func serviceOf(s swarm.Service) Service {
	service := Service{ID: s.ID, Name: s.Spec.Name}
	if c := s.Spec.TaskTemplate.ContainerSpec; c != nil {
		service.Image = c.Image
	}
	switch mode := s.Spec.Mode; {
	case mode.Replicated != nil:
		service.Mode = Replicated
	case mode.Global != nil:
		service.Mode = Global
	case mode.ReplicatedJob != nil:
		service.Mode = ReplicatedJob
	case mode.GlobalJob != nil:
		service.Mode = GlobalJob
	}
	if s.ServiceStatus != nil {
		service.Running, service.Desired = int(s.ServiceStatus.RunningTasks), int(s.ServiceStatus.DesiredTasks)
	}
	return service
}
