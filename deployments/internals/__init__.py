"""All that knows private names of Serve, Ray and uvicorn.

No other module of the project uses any. They are imported when they are used, and the short way
past Serve, which needs most of them, is taken for tested pairs of versions alone (`versions`),
after a conversation with a server (`rehearsal`) and a trial of Serve's counters (`accounts`). Where
one is not as it is known there is one warning, and requests take Serve's own way: slower, with the
same answers.

These are in use, by module; `name=` is an argument:

`accounts`: HTTP, _app, _cached_deployment_request_error_counter, _cached_error_counter,
_cached_ingress_processing_latencies, _cached_ingress_request_counter,
_cached_ingress_request_error_counter, _cached_latencies, _cached_request_counter,
_deployment_config, _deployment_id, _http_options, _max_processing_latency_trackers,
_metrics_manager, _request_protocol=, _route_prefix, _run_user_code_in_separate_thread, _semaphore,
_user_callable_wrapper, _user_code_time_accumulator, acquire, add, app_name,
dec_num_ongoing_requests, deployment_error_tags, inc_num_ongoing_requests, internal_request_id=,
is_direct_ingress=, locked, logging_config, name, ray.serve._private.common.RequestMetadata,
ray.serve._private.common.RequestProtocol,
ray.serve._private.request_ingress_metrics.RequestIngressMetrics,
ray.serve._private.tracing_utils.is_tracing_enabled, release, request_error_tags, request_id=,
request_tags, request_timeout_s.

`applications`: _bound_deployment.

`connection`: _start_asgi_task, access_log, access_log=, access_logger, access_logger=, app, cycle,
default_headers, default_headers=, disconnected, drain, expect_100_continue, expect_100_continue=,
flow, flow=, keep_alive, keep_alive=, limit_concurrency, loaded_app, logger, logger=, message_event,
message_event=, more_body, on_body, on_headers_complete, on_response, on_response=,
on_response_complete, parser, pause_reading, pipeline, receive, response_complete, response_started,
resume_reading, root_path, run_asgi, scope, scope=, send, server_state, transport, transport=, url,
uvicorn.config.Config, uvicorn.config.HTTP_PROTOCOLS,
uvicorn.protocols.http.httptools_impl.HEADER_RE,
uvicorn.protocols.http.httptools_impl.HttpToolsProtocol,
uvicorn.protocols.http.httptools_impl.RequestResponseCycle,
uvicorn.protocols.http.httptools_impl.STATUS_LINE, uvicorn.server.ServerState,
waiting_for_100_continue, write_paused.

`replica_config`: _deployment_config, logging_config, max_ongoing_requests.

`served_models`: TARGET_GROUPS, from_proxy_manager=, get_serve_instance_details, get_target_groups,
listen_for_change, ray.serve._private.constants.SERVE_CONTROLLER_NAME,
ray.serve._private.constants.SERVE_NAMESPACE, ray.serve._private.long_poll.LongPollNamespace,
snapshot_id.

`sockets`: add_grpc_address, add_port_to_grpc_server,
ray.serve._private.constants.RAY_SERVE_ENABLE_HA_PROXY, ray.serve._private.default_impl,
ray.serve._private.replica.
"""
