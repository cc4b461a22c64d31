//! The API as seen over HTTPS: the same tests on redb, on memory and on a real etcd.

mod access;
mod audit;
mod door;
mod fair;
mod garbage;
mod identity;
mod joining;
mod lists;
mod losses;
mod objects;
mod policies;
mod vault;
mod watches;
mod webhooks;
mod workloads;
mod world;

/// Every test of the table, once for each of these stores.
macro_rules! on {
    ($($module:ident = $store:ident),+: $table:tt) => {
        $(on!(@store $module $store $table);)+
    };
    (@store $module:ident $store:ident {$($topic:ident: $($test:ident),+;)+}) => {
        mod $module {
            $(mod $topic {
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $test() {
                        let world = crate::world::World::$store().await;
                        Box::pin(crate::$topic::$test(&world)).await;
                        world.server.assert_sound();
                    }
                )+
            })+
        }
    };
}

on! { redb = redb, memory = memory, etcd = etcd: {
    objects: create_get_update_delete, names_are_generated, a_dry_run_leaves_nothing, conflicts, preconditions, patches,
        bodies_and_forms, field_validation, status_is_apart, deletecollection, what_is_refused;
    lists: pages_stand_still, revisions, selectors, tables;
    watches: resumed_without_gap, selections, streaming_list, bookmarks, too_old_is_gone;
    garbage: finalizers_hold, background, foreground, orphans, an_owner_that_never_was, odd_owners, owners_in_other_namespaces,
        freed_in_time, a_namespace_goes_with_its_contents;
}}

// What does not depend on how objects are kept; `memory` is redb without the disk (ARCHITECTURE.md, "What the code taught").
on! { redb_too = redb, etcd_too = etcd: {
    losses: system_namespaces_come_back, taints_drive_pods_away_in_time;
    access: nobody_and_anybody, roles_allow, tokens, reviews;
    door: a_tenant_stays_at_home, a_name_and_a_selector_agree, an_update_that_creates_needs_create, labels_are_rights, streams_need_create,
        nobody_is_led_to_the_server_itself, who_impersonates_is_not_himself, tokens_have_audiences;
    fair: one_user_cannot_starve_the_rest;
    joining: a_token_a_key_and_a_node, by_hand;
    workloads: a_deployment_makes_pods, a_rolling_update, odd_objects_stop_no_loop, scale, evictions, budgets, aggregated_roles, addresses_of_services, events_and_nodes;
}}
