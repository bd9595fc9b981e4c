// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package dataset

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
)

const podNodes = 1000

// podServiceAccount is the service account of all Pods.
const podServiceAccount = "shop-frontend"

// PreparePods makes what the Pods refer to, where the server insists on it.
func (p Place) PreparePods(ctx context.Context, client kubernetes.Interface) error {
	if p.Only == "" {
		return nil // targets that bench starts do not
	}
	_, err := client.CoreV1().ServiceAccounts(p.Only).Create(ctx, &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: podServiceAccount},
	}, metav1.CreateOptions{FieldManager: "weir-bench"})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("service account for Pods: %w", err)
	}
	return nil
}

// CreatePod makes Pod i the way a cluster does: the controller creates it, then the kubelet writes its status. So the
// server itself makes managedFields of the usual size.
func CreatePod(ctx context.Context, client kubernetes.Interface, namespace string, pod *corev1.Pod, i int) error {
	created, err := client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{FieldManager: "kube-controller-manager"})
	if apierrors.IsAlreadyExists(err) { // an interrupted run made it, perhaps without its status
		created, err = client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	created.Status = podStatus(created, i)
	_, err = client.CoreV1().Pods(namespace).UpdateStatus(ctx, created, metav1.UpdateOptions{FieldManager: "kubelet"})
	return err
}

// newPod is a web application's Pod with a sidecar. Names, hashes and addresses differ from Pod
// to Pod, the rest is alike, as among the replicas of a workload.
func newPod(i int) *corev1.Pod {
	app := fmt.Sprintf("shop-frontend-%03d", i/50)
	id := hex.EncodeToString(randomBytes(uint64(i), 16))
	yes, no, uid := true, false, int64(10001)
	seconds, mode := int64(30), int32(0o420)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%s-%05d", app, id[:8], i),
			Labels: map[string]string{
				"app.kubernetes.io/name":       "shop-frontend",
				"app.kubernetes.io/instance":   app,
				"app.kubernetes.io/component":  "web",
				"app.kubernetes.io/version":    "4.18.2",
				"app.kubernetes.io/managed-by": "Helm",
				"pod-template-hash":            id[:10],
				"topology.example.com/zone":    fmt.Sprintf("zone-%c", 'a'+i%3),
			},
			Annotations: map[string]string{
				"checksum/config":      hex.EncodeToString(randomBytes(uint64(i)+1<<32, 32)),
				"prometheus.io/scrape": "true",
				"prometheus.io/port":   "9090",
				"prometheus.io/path":   "/internal/metrics",
			},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-" + id[:8],
				UID: types.UID(podUUID(uint64(i / 50))), Controller: &yes, BlockOwnerDeletion: &yes,
			}},
		},
		Spec: corev1.PodSpec{
			NodeName:                      podNode(i),
			ServiceAccountName:            podServiceAccount,
			AutomountServiceAccountToken:  &no,
			TerminationGracePeriodSeconds: &seconds,
			SecurityContext:               &corev1.PodSecurityContext{RunAsUser: &uid},
			ImagePullSecrets:              []corev1.LocalObjectReference{{Name: "registry-credentials"}},
			NodeSelector:                  map[string]string{"kubernetes.io/os": "linux", "node.example.com/pool": "general"},
			Tolerations:                   []corev1.Toleration{{Key: "node.example.com/spot", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}},
			Volumes: []corev1.Volume{
				{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: app + "-config"}, DefaultMode: &mode}}},
				{Name: "credentials", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: app + "-credentials", DefaultMode: &mode}}},
				{Name: "logs", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
			Containers: []corev1.Container{
				podContainer("web", "shop-frontend", 3, 8080),
				podContainer("proxy", "service-proxy", 1, 15090),
			},
		},
	}
	return pod
}

// podBytes is about what a Pod takes in protobuf, with what the server adds to it.
const podBytes = 7_900

// pad gives a Pod more settings, until another one would not bring it nearer to so many bytes in protobuf.
func pad(pod *corev1.Pod, size int) {
	c := &pod.Spec.Containers[0]
	for now := podBytes; ; {
		v := corev1.EnvVar{
			Name:  fmt.Sprintf("SHOP_OPTION_%05d", len(c.Env)),
			Value: fmt.Sprintf("https://option-%02d.shop.svc.cluster.local:8443/api", len(c.Env)%100),
		}
		// The server's managed fields name each setting, in JSON.
		more := 2 + v.Size() + len(`"k:{\"name\":\"`+v.Name+`\"}":{".":{},"f:name":{},"f:value":{}},`)
		if now+more/2 > size {
			return
		}
		c.Env = append(c.Env, v)
		now += more
	}
}

func podContainer(name, image string, env int, port int32) corev1.Container {
	no, yes := false, true
	c := corev1.Container{
		Name:            name,
		Image:           fmt.Sprintf("registry.example.com/platform/%s:4.18.2", image),
		ImagePullPolicy: corev1.PullIfNotPresent,
		Args:            []string{"--config=/etc/config/" + name + ".yaml", "--log-format=json", "--log-level=info"},
		Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("256Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "config", MountPath: "/etc/config", ReadOnly: true},
			{Name: "logs", MountPath: "/var/log/app"},
		},
		SecurityContext: &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		},
	}
	c.Env = append(c.Env,
		corev1.EnvVar{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
		corev1.EnvVar{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
	)
	for e := range env {
		c.Env = append(c.Env, corev1.EnvVar{
			Name:  fmt.Sprintf("SHOP_SETTING_%02d", e),
			Value: fmt.Sprintf("https://backend-%02d.shop.svc.cluster.local:8443/api", e),
		})
	}
	c.Ports = []corev1.ContainerPort{{Name: name, ContainerPort: port, Protocol: corev1.ProtocolTCP}}
	probe := func(path string, period int32) *corev1.Probe {
		return &corev1.Probe{
			ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(name), Scheme: corev1.URISchemeHTTP}},
			PeriodSeconds: period, TimeoutSeconds: 2, FailureThreshold: 3, SuccessThreshold: 1,
		}
	}
	c.ReadinessProbe = probe("/internal/ready", 5)
	if name == "web" {
		c.LivenessProbe = probe("/internal/alive", 10)
	}
	return c
}

// podStatus is what a kubelet writes for a Pod that runs.
func podStatus(pod *corev1.Pod, i int) corev1.PodStatus {
	started := metav1.NewTime(time.Date(2026, 3, 14, 9, 26, i%60, 0, time.UTC))
	yes := true
	ip := fmt.Sprintf("10.%d.%d.%d", 128+i/62500, i/250%250, 1+i%250)
	host := fmt.Sprintf("172.16.%d.%d", i%podNodes/250, 1+i%250)
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, HostIP: host, HostIPs: []corev1.HostIP{{IP: host}},
		PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, StartTime: &started, QOSClass: corev1.PodQOSBurstable,
	}
	for _, c := range []corev1.PodConditionType{"PodReadyToStartContainers", corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		status.Conditions = append(status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: started})
	}
	container := func(n int, c corev1.Container) corev1.ContainerStatus {
		seed := uint64(i)<<8 | uint64(n)
		return corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: &yes,
			ImageID:     "registry.example.com/platform/" + c.Name + "@sha256:" + hex.EncodeToString(randomBytes(uint64(n)+1<<40, 32)),
			ContainerID: "containerd://" + hex.EncodeToString(randomBytes(seed+1<<41, 32)),
			State:       corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}},
		}
	}
	for n, c := range pod.Spec.Containers {
		status.ContainerStatuses = append(status.ContainerStatuses, container(n, c))
	}
	return status
}

func podNode(i int) string { return fmt.Sprintf("node-%04d.pool-general.example.internal", i%podNodes) }

func podUUID(seed uint64) string {
	b := randomBytes(seed+1<<42, 16)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
