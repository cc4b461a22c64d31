// client-go as operators use it, all of it in protobuf: typed clients, informers, leader election. Ends with 0 if all was as on any cluster.
//
// Between "restart" on standard output and a line on standard input the API server is killed and started again, ConfigMap "away" is made and "doomed" deleted.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	appsinformers "k8s.io/client-go/informers/apps/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
)

const (
	namespace = "gophers"
	media     = "application/vnd.kubernetes.protobuf"
	bound     = 90 * time.Second
)

var (
	ctx   = context.Background()
	seen  witness
	set   *kubernetes.Clientset
	views []*view
)

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	must(err)
	config.ContentType, config.AcceptContentTypes, config.QPS = media, media, -1
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { seen.next = next; return &seen })
	set = kubernetes.NewForConfigOrDie(config)
	_, err = set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: named("", namespace)}, metav1.CreateOptions{})
	must(err)
	eventually("a service account", func() bool {
		_, err := set.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	views = informers()
	for _, part := range []struct {
		name string
		run  func()
	}{{"objects", objects}, {"pages", pages}, {"deployments", deployments}, {"pods", pods}, {"applies", applies}, {"watches", watches}, {"restart", restart}, {"leads", leads}} {
		part.run()
		agree(part.name)
		fmt.Printf("%s: as on any cluster\n", part.name)
	}
	fmt.Printf("%d answers in protobuf, %d lists, %d watches\n", seen.answers.Load(), seen.lists.Load(), seen.watches.Load())
}

// witness sees to it that every answer is in protobuf, errors and watches too.
type witness struct {
	next                    http.RoundTripper
	answers, lists, watches atomic.Int64
}

func (w *witness) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := w.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	is := response.Header.Get("Content-Type")
	check(is == media || is == media+";stream=watch", "%s %s: %s in %q", request.Method, request.URL, response.Status, is)
	w.answers.Add(1)
	if query := request.URL.Query(); query.Has("watch") {
		w.watches.Add(1)
	} else if strings.Contains(request.URL.RawQuery, "limit") || query.Has("resourceVersion") {
		w.lists.Add(1)
	}
	return response, nil
}

// view is an informer, and what it told of each object: revisions that only rise, no object added twice, none changed that was not there.
type view struct {
	name     string
	informer cache.SharedIndexInformer
	list     func() (runtime.Object, error)
	mutex    sync.Mutex
	held     map[string]types.UID
}

func informers() []*view {
	all := metav1.ListOptions{}
	views := []*view{
		{name: "configmaps", informer: coreinformers.NewConfigMapInformer(set, namespace, 0, cache.Indexers{}),
			list: func() (runtime.Object, error) { return set.CoreV1().ConfigMaps(namespace).List(ctx, all) }},
		{name: "pods", informer: coreinformers.NewPodInformer(set, namespace, 0, cache.Indexers{}),
			list: func() (runtime.Object, error) { return set.CoreV1().Pods(namespace).List(ctx, all) }},
		{name: "deployments", informer: appsinformers.NewDeploymentInformer(set, namespace, 0, cache.Indexers{}),
			list: func() (runtime.Object, error) { return set.AppsV1().Deployments(namespace).List(ctx, all) }},
	}
	for _, v := range views {
		v.held = map[string]types.UID{}
		_, err := v.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: v.added, UpdateFunc: v.updated, DeleteFunc: v.deleted})
		must(err)
		go v.informer.Run(ctx.Done())
	}
	for _, v := range views {
		eventually(v.name+" synced", v.informer.HasSynced)
	}
	return views
}

func (v *view) added(object any) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	m := object.(metav1.Object)
	check(v.held[m.GetName()] == "", "%s %s was added twice", v.name, m.GetName())
	v.held[m.GetName()] = m.GetUID()
}

func (v *view) updated(before, after any) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	was, is := before.(metav1.Object), after.(metav1.Object)
	check(v.held[is.GetName()] == was.GetUID(), "%s %s changed, and was not there", v.name, is.GetName())
	check(revision(was) <= revision(is), "%s %s: %s after %s", v.name, is.GetName(), is.GetResourceVersion(), was.GetResourceVersion())
	v.held[is.GetName()] = is.GetUID()
}

func (v *view) deleted(object any) {
	v.mutex.Lock()
	defer v.mutex.Unlock()
	if unknown, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = unknown.Obj
	}
	m := object.(metav1.Object)
	check(v.held[m.GetName()] == m.GetUID(), "%s %s was deleted, and was not there", v.name, m.GetName())
	delete(v.held, m.GetName())
}

// agree waits until each informer holds what a list has, field for field.
func agree(after string) {
	for _, v := range views {
		eventually(fmt.Sprintf("the informer of %s agrees with a list after %s", v.name, after), func() bool {
			list, err := v.list()
			must(err)
			items, err := meta.ExtractList(list)
			must(err)
			store := v.informer.GetStore()
			for _, item := range items {
				held, there, err := store.Get(item)
				must(err)
				if !there || !equality.Semantic.DeepEqual(held, item) {
					return false
				}
			}
			v.mutex.Lock()
			defer v.mutex.Unlock()
			return len(store.List()) == len(items) && len(v.held) == len(items)
		})
	}
}

func objects() {
	maps := set.CoreV1().ConfigMaps(namespace)
	one := &corev1.ConfigMap{ObjectMeta: named(namespace, "one"), Data: map[string]string{"a": "1", "b": "2"}, BinaryData: map[string][]byte{"c": {0, 255}}}
	made, err := maps.Create(ctx, one, metav1.CreateOptions{})
	must(err)
	_, err = maps.Create(ctx, one, metav1.CreateOptions{})
	check(apierrors.IsAlreadyExists(err), "created twice: %v", err)
	made.Data["a"] = "3"
	later, err := maps.Update(ctx, made, metav1.UpdateOptions{})
	must(err)
	check(revision(later) > revision(made) && string(later.BinaryData["c"]) == "\x00\xff", "updated: %v", later)
	_, err = maps.Update(ctx, made, metav1.UpdateOptions{})
	check(apierrors.IsConflict(err), "an old revision: %v", err)
	tries := 0
	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if tries++; tries > 1 {
			if made, err = maps.Get(ctx, "one", metav1.GetOptions{}); err != nil {
				return err
			}
		}
		made.Data["a"] = "4"
		_, err := maps.Update(ctx, made, metav1.UpdateOptions{})
		return err
	}))
	check(tries == 2, "%d tries", tries)
	merged, err := maps.Patch(ctx, "one", types.MergePatchType, []byte(`{"data":{"b":null,"d":"5"}}`), metav1.PatchOptions{})
	must(err)
	check(equality.Semantic.DeepEqual(merged.Data, map[string]string{"a": "4", "d": "5"}), "merged: %v", merged.Data)
	_, err = maps.Patch(ctx, "one", types.JSONPatchType, []byte(`[{"op":"test","path":"/data/a","value":"9"}]`), metav1.PatchOptions{})
	check(apierrors.IsInvalid(err), "a test that fails: %v", err)
	_, err = maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: named(namespace, "Not a name")}, metav1.CreateOptions{})
	check(apierrors.IsInvalid(err) && strings.Contains(err.Error(), "RFC 1123") && apierrors.HasStatusCause(err, metav1.CauseTypeFieldValueInvalid), "refused: %v", err)
	other := types.UID("somebody else")
	err = maps.Delete(ctx, "one", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
	check(apierrors.IsConflict(err), "another uid: %v", err)
	must(maps.Delete(ctx, "one", metav1.DeleteOptions{}))
	_, err = maps.Get(ctx, "one", metav1.GetOptions{})
	check(apierrors.IsNotFound(err), "deleted: %v", err)
}

func pages() {
	maps := set.CoreV1().ConfigMaps(namespace)
	for range 7 {
		made := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "page-", Labels: map[string]string{"page": "yes"}}}
		_, err := maps.Create(ctx, made, metav1.CreateOptions{})
		must(err)
	}
	selected := metav1.ListOptions{LabelSelector: "page=yes"}
	lister := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return maps.List(ctx, options)
	})
	lister.PageSize = 3
	names := map[string]bool{}
	must(lister.EachListItem(ctx, selected, func(object runtime.Object) error {
		names[object.(metav1.Object).GetName()] = true
		return nil
	}))
	check(len(names) == 7, "seven in pages: %v", names)
	must(maps.DeleteCollection(ctx, metav1.DeleteOptions{}, selected))
	left, err := maps.List(ctx, selected)
	must(err)
	check(len(left.Items) == 0, "deleted together: %v", left.Items)
}

func deployments() {
	apps := set.AppsV1().Deployments(namespace)
	labels, replicas := map[string]string{"app": "hello"}, int32(2)
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a:1"}, {Name: "b", Image: "b:1"}}}
	made, err := apps.Create(ctx, &appsv1.Deployment{ObjectMeta: named(namespace, "hello"), Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: spec}}}, metav1.CreateOptions{})
	must(err)
	check(made.Spec.Strategy.RollingUpdate.MaxSurge.String() == "25%" && made.Generation == 1, "defaults: %v", made)
	patch := `{"spec":{"template":{"spec":{"containers":[{"name":"b","image":"b:2"}]}}}}`
	patched, err := apps.Patch(ctx, "hello", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	must(err)
	containers := patched.Spec.Template.Spec.Containers
	check(len(containers) == 2 && containers[0].Image == "a:1" && containers[1].Image == "b:2", "merged by name: %v", containers)
	must(retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		scale, err := apps.GetScale(ctx, "hello", metav1.GetOptions{})
		must(err)
		scale.Spec.Replicas = 3
		_, err = apps.UpdateScale(ctx, "hello", scale, metav1.UpdateOptions{})
		return err
	}))
	// No pod ever gets ready here, so that the rollout stays where it is once there is one of the new template.
	eventually("a pod of the new template in the informer", func() bool {
		for _, object := range views[1].informer.GetStore().List() {
			if object.(*corev1.Pod).Spec.Containers[1].Image == "b:2" {
				return true
			}
		}
		return false
	})
}

func pods() {
	pods := set.CoreV1().Pods(namespace)
	token, seconds := false, int64(1)
	made, err := pods.Create(ctx, &corev1.Pod{ObjectMeta: named(namespace, "alone"), Spec: corev1.PodSpec{
		AutomountServiceAccountToken: &token, TerminationGracePeriodSeconds: &seconds,
		Containers: []corev1.Container{{Name: "a", Image: "a:1"}}}}, metav1.CreateOptions{})
	must(err)
	made.Status.Conditions = append(made.Status.Conditions, corev1.PodCondition{Type: "sky.example/high", Status: corev1.ConditionTrue})
	_, err = pods.UpdateStatus(ctx, made, metav1.UpdateOptions{})
	check(err == nil || apierrors.IsConflict(err), "the scheduler writes there, too: %v", err)
	err = pods.Bind(ctx, &corev1.Binding{ObjectMeta: named(namespace, "alone"), Target: corev1.ObjectReference{Kind: "Node", Name: "nowhere"}}, metav1.CreateOptions{})
	must(err)
	bound, err := pods.Get(ctx, "alone", metav1.GetOptions{})
	must(err)
	check(bound.Spec.NodeName == "nowhere", "bound: %v", bound.Spec)
	there, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=nowhere"})
	must(err)
	check(len(there.Items) == 1, "by a field: %v", there.Items)
	must(pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: named(namespace, "alone")}))
	now := int64(0)
	err = pods.Delete(ctx, "alone", metav1.DeleteOptions{GracePeriodSeconds: &now})
	check(err == nil || apierrors.IsNotFound(err), "deleted at once: %v", err)
}

func applies() {
	maps := set.CoreV1().ConfigMaps(namespace)
	mine := corev1ac.ConfigMap("applied", namespace).WithData(map[string]string{"mine": "1", "both": "1"})
	_, err := maps.Apply(ctx, mine, metav1.ApplyOptions{FieldManager: "one"})
	must(err)
	theirs := corev1ac.ConfigMap("applied", namespace).WithData(map[string]string{"theirs": "2", "both": "2"})
	_, err = maps.Apply(ctx, theirs, metav1.ApplyOptions{FieldManager: "two"})
	check(apierrors.IsConflict(err) && apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict), "owned by one: %v", err)
	both, err := maps.Apply(ctx, theirs, metav1.ApplyOptions{FieldManager: "two", Force: true})
	must(err)
	check(equality.Semantic.DeepEqual(both.Data, map[string]string{"mine": "1", "theirs": "2", "both": "2"}), "forced: %v", both.Data)
	extracted, err := corev1ac.ExtractConfigMap(both, "one")
	must(err)
	check(equality.Semantic.DeepEqual(extracted.Data, map[string]string{"mine": "1"}), "what is left to one: %v", extracted.Data)
	again, err := maps.Apply(ctx, theirs, metav1.ApplyOptions{FieldManager: "two"})
	must(err)
	check(again.ResourceVersion == both.ResourceVersion, "applied again: %s, then %s", both.ResourceVersion, again.ResourceVersion)
	less, err := maps.Apply(ctx, corev1ac.ConfigMap("applied", namespace), metav1.ApplyOptions{FieldManager: "two"})
	must(err)
	check(equality.Semantic.DeepEqual(less.Data, map[string]string{"mine": "1"}), "given up: %v", less.Data)
}

func watches() {
	secrets := set.CoreV1().Secrets(namespace)
	start, err := secrets.List(ctx, metav1.ListOptions{})
	must(err)
	seconds := int64(bound.Seconds())
	watcher, err := secrets.Watch(ctx, metav1.ListOptions{ResourceVersion: start.ResourceVersion, AllowWatchBookmarks: true, TimeoutSeconds: &seconds})
	must(err)
	defer watcher.Stop()
	_, err = secrets.Create(ctx, &corev1.Secret{ObjectMeta: named(namespace, "s"), StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{})
	must(err)
	_, err = secrets.Patch(ctx, "s", types.MergePatchType, []byte(`{"metadata":{"labels":{"seen":"yes"}}}`), metav1.PatchOptions{})
	must(err)
	must(secrets.Delete(ctx, "s", metav1.DeleteOptions{}))
	events := []watch.EventType{}
	for event := range watcher.ResultChan() {
		if event.Type == watch.Bookmark {
			continue
		}
		events = append(events, event.Type)
		check(string(event.Object.(*corev1.Secret).Data["k"]) == "v", "%s: %v", event.Type, event.Object)
		if event.Type == watch.Deleted {
			break
		}
	}
	check(equality.Semantic.DeepEqual(events, []watch.EventType{watch.Added, watch.Modified, watch.Deleted}), "events: %v", events)
	_, err = secrets.List(ctx, metav1.ListOptions{Continue: "nonsense", Limit: 1})
	check(apierrors.IsBadRequest(err), "a token of nobody: %v", err)
}

func restart() {
	maps := set.CoreV1().ConfigMaps(namespace)
	for _, name := range []string{"doomed", "kept"} {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: named(namespace, name)}, metav1.CreateOptions{})
		must(err)
	}
	agree("a last write")
	fmt.Println("restart")
	_, err := bufio.NewReader(os.Stdin).ReadString('\n')
	must(err)
	holds := func(name string) bool {
		_, there, err := views[0].informer.GetStore().GetByKey(namespace + "/" + name)
		must(err)
		return there
	}
	eventually("what was written while the informers were away", func() bool { return holds("away") && !holds("doomed") && holds("kept") })
	_, err = maps.Patch(ctx, "kept", types.MergePatchType, []byte(`{"data":{"still":"here"}}`), metav1.PatchOptions{})
	must(err)
}

// leads has two candidates: the second leads once the first has let go, and not before.
func leads() {
	var leaders [2]atomic.Bool
	stops := [2]context.CancelFunc{}
	var ended sync.WaitGroup
	candidate := func(n int) {
		id := fmt.Sprintf("candidate-%d", n)
		lock := &resourcelock.LeaseLock{LeaseMeta: named(namespace, "lead"), Client: set.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: id}}
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Lock: lock, LeaseDuration: 60 * time.Second, RenewDeadline: 40 * time.Second, RetryPeriod: 100 * time.Millisecond, ReleaseOnCancel: true,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leaders[n].Store(true) },
				OnStoppedLeading: func() { leaders[n].Store(false) },
			}})
		must(err)
		until, stop := context.WithCancel(ctx)
		stops[n] = stop
		ended.Add(1)
		go func() { defer ended.Done(); elector.Run(until) }()
	}
	lease := func() (holder string, renewed time.Time, transitions int32) {
		lease, err := set.CoordinationV1().Leases(namespace).Get(ctx, "lead", metav1.GetOptions{})
		must(err)
		if lease.Spec.HolderIdentity != nil {
			holder = *lease.Spec.HolderIdentity
		}
		return holder, lease.Spec.RenewTime.Time, *lease.Spec.LeaseTransitions
	}
	candidate(0)
	eventually("the first leads", leaders[0].Load)
	candidate(1)
	_, since, _ := lease()
	eventually("the first renews", func() bool { _, renewed, _ := lease(); return renewed.After(since.Add(time.Second)) })
	check(!leaders[1].Load(), "two lead")
	stops[0]()
	eventually("the second leads", leaders[1].Load)
	holder, _, transitions := lease()
	check(holder == "candidate-1" && transitions >= 1 && !leaders[0].Load(), "%s leads after %d transitions", holder, transitions)
	stops[1]()
	ended.Wait()
}

func named(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func revision(object metav1.Object) (revision uint64) {
	_, err := fmt.Sscan(object.GetResourceVersion(), &revision)
	must(err)
	return revision
}

func eventually(what string, holds func() bool) {
	for end := time.Now().Add(bound); !holds(); time.Sleep(20 * time.Millisecond) {
		check(time.Now().Before(end), "%s: not within %s", what, bound)
	}
}

func must(err error) {
	check(err == nil, "%v", err)
}

func check(holds bool, format string, args ...any) {
	if !holds {
		panic(fmt.Sprintf(format, args...))
	}
}
