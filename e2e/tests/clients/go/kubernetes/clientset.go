// Package kubernetes stands in for client-go's file of the same name: of its sixty groups only those that are driven, since each of them is
// compiled whenever a machine is new. The clients themselves are client-go's.
package kubernetes

import (
	"k8s.io/client-go/kubernetes/typed/apps/v1"
	coordinationv1 "k8s.io/client-go/kubernetes/typed/coordination/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
)

// Interface is what informers and locks take.
type Interface interface {
	AppsV1() v1.AppsV1Interface
	CoordinationV1() coordinationv1.CoordinationV1Interface
	CoreV1() corev1.CoreV1Interface
}

// Clientset has a client per group.
type Clientset struct {
	apps         *v1.AppsV1Client
	coordination *coordinationv1.CoordinationV1Client
	core         *corev1.CoreV1Client
}

func (c *Clientset) AppsV1() v1.AppsV1Interface                             { return c.apps }
func (c *Clientset) CoordinationV1() coordinationv1.CoordinationV1Interface { return c.coordination }
func (c *Clientset) CoreV1() corev1.CoreV1Interface                         { return c.core }

// NewForConfigOrDie shares one transport among the groups.
func NewForConfigOrDie(config *rest.Config) *Clientset {
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		panic(err)
	}
	apps, err := v1.NewForConfigAndClient(config, client)
	if err != nil {
		panic(err)
	}
	coordination, err := coordinationv1.NewForConfigAndClient(config, client)
	if err != nil {
		panic(err)
	}
	core, err := corev1.NewForConfigAndClient(config, client)
	if err != nil {
		panic(err)
	}
	return &Clientset{apps, coordination, core}
}
