BEGIN TRANSACTION;
CREATE TABLE application_versions (
    version_id TEXT NOT NULL PRIMARY KEY,
    version_name TEXT NOT NULL UNIQUE,
    version_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL);
INSERT INTO "application_versions" VALUES('318717e7-49ca-4ad0-9df1-655de2f490a2','1',1732878563000,1732878563000,'bot-host');
CREATE TABLE bot_hosts (
	application VARCHAR(200) NOT NULL, 
	id VARCHAR(200) NOT NULL, 
	beat DOUBLE NOT NULL, 
	since DOUBLE NOT NULL, 
	cron BOOLEAN NOT NULL, 
	gone BOOLEAN NOT NULL, 
	PRIMARY KEY (application, id)
);
INSERT INTO "bot_hosts" VALUES('bot-host','host-of-0.1.0',1.79595056403979396819e+09,1.79595056403979396819e+09,0,0);
CREATE TABLE dbos_migrations (version INTEGER NOT NULL PRIMARY KEY);
INSERT INTO "dbos_migrations" VALUES(125);
CREATE TABLE notifications (
    message_uuid TEXT NOT NULL DEFAULT (hex(randomblob(16))) PRIMARY KEY,
    destination_uuid TEXT NOT NULL,
    topic TEXT,
    message TEXT NOT NULL,
    created_at_epoch_ms INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000), "serialization" TEXT DEFAULT NULL, "consumed" BOOLEAN NOT NULL DEFAULT FALSE, consumed_by_function_id INTEGER,
    FOREIGN KEY (destination_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE "operation_outputs" (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    function_name TEXT NOT NULL DEFAULT '',
    output TEXT,
    error TEXT,
    child_workflow_id TEXT,
    started_at_epoch_ms INTEGER,
    completed_at_epoch_ms INTEGER,
    serialization TEXT,
    application_name TEXT DEFAULT NULL,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    PRIMARY KEY (workflow_uuid, function_id)
);
INSERT INTO "operation_outputs" VALUES('greet:Patient/refused:1:update:s',1,'attempt','{"state":"refused","code":"contradiction","retry_after":null,"attempt":0}',NULL,NULL,1732878565064,1732878565070,'portable_json','bot-host',1732878565000);
INSERT INTO "operation_outputs" VALUES('greet:Patient/dead:1:update:s',1,'attempt','{"state":"again","code":"busy","retry_after":null,"attempt":0}',NULL,NULL,1732878565067,1732878565068,'portable_json','bot-host',1732878565000);
INSERT INTO "operation_outputs" VALUES('greet:Patient/dead:1:update:s',2,'pause','1732878565.1671922',NULL,NULL,1732878565156,1732878565157,'portable_json','bot-host',1732878565000);
INSERT INTO "operation_outputs" VALUES('greet:Patient/dead:1:update:s',3,'attempt','{"state":"again","code":"busy","retry_after":null,"attempt":1}',NULL,NULL,1732878565179,1732878565181,'portable_json','bot-host',1732878565000);
INSERT INTO "operation_outputs" VALUES('greet:Patient/done:1:update:s',1,'attempt','{"state":"done","code":"","retry_after":null,"attempt":0}',NULL,NULL,1732878565065,1732878565071,'portable_json','bot-host',1732878565000);
CREATE TABLE queues (
    queue_id TEXT PRIMARY KEY DEFAULT (hex(randomblob(16))),
    name TEXT NOT NULL UNIQUE,
    concurrency INTEGER,
    worker_concurrency INTEGER,
    rate_limit_max INTEGER,
    rate_limit_period_sec REAL,
    priority_enabled BOOLEAN NOT NULL DEFAULT FALSE,
    partition_queue BOOLEAN NOT NULL DEFAULT FALSE,
    polling_interval_sec REAL NOT NULL DEFAULT 1.0,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
, "application_name" TEXT DEFAULT NULL, "partition_concurrency" INTEGER DEFAULT NULL, "partition_worker_concurrency" INTEGER DEFAULT NULL, "partition_rate_limit_max" INTEGER DEFAULT NULL, "partition_rate_limit_period_sec" REAL DEFAULT NULL);
INSERT INTO "queues" VALUES('2ACD506C7EACD8E29BD689A47CE358C3','events',NULL,16,NULL,NULL,1,1,0.02,1732878563000,1732878563906,'bot-host',1,NULL,NULL,NULL);
INSERT INTO "queues" VALUES('96E5F6E55205C08C2DA8B60AF864BE21','clock',NULL,NULL,NULL,NULL,1,0,0.02,1732878563000,1732878563928,'bot-host',NULL,NULL,NULL,NULL);
CREATE TABLE streams (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    "offset" INTEGER NOT NULL, function_id INTEGER NOT NULL DEFAULT 0, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key, "offset"),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_events (
    workflow_uuid TEXT NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid) 
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_events_history (
    workflow_uuid TEXT NOT NULL,
    function_id INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL, "serialization" TEXT DEFAULT NULL,
    PRIMARY KEY (workflow_uuid, function_id, key),
    FOREIGN KEY (workflow_uuid) REFERENCES workflow_status(workflow_uuid)
        ON UPDATE CASCADE ON DELETE CASCADE
);
CREATE TABLE workflow_input (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    inputs TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_input" VALUES('greet:Patient/done:1:update:s','{"namedArgs":{},"positionalArgs":[{"bot":"greet","botId":"b","baseUrl":"http://127.0.0.1/","traceId":"t","kind":"update","resource":"Patient/done","version":"1","subscription":"s","sealed":"gAAAAABrDAfkFT3ymdvW7PsSPDBoCFwXdCtgr6hDFhkxb18QYyWEedZRx_TZdRCPjfh3kROn8-UK7N1s1FNkaLFfdPEGbNc7xYiYq97DrHIbmcox58H53qBnF2RKjxeAwHtDM2WK_QdXoljdcnhtU2YsQVmXakjWUVN5XSYqzqNKwwdSRe6OfwAw95sHPp2JVa7zKaxUP3L4I13Zz2NR9Cddj61NHHmOJFbd5ujH7l6wv0k1R_1LBvCgKSkTWuLu8XSWjPYxzdF40Or5McRZb4JcvMT0tL3F-TdBxosx5nq-7xtgM_PeQ-hrM-IiAq726lXWK2CFC7bEj-6mX3RjYpzWoFEeoq1gFVE0FWZp52xvPJgpxgHLmNf68o-HyS_IduusNZjRPLF3wPE1aJNTFCHpCSbo6hMnB1ovI6uLETxw6NL1IzKPURKxt8UirDRbdx8nOkjUqXcZSmCQvJMGdMAdXXLseSh55aoVKUJYDlZy4qGCCxCGfbTU8Gvq8bbBbQG6TxloX55Q","traceparent":null}]}',1732878564000);
INSERT INTO "workflow_input" VALUES('greet:Patient/refused:1:update:s','{"namedArgs":{},"positionalArgs":[{"bot":"greet","botId":"b","baseUrl":"http://127.0.0.1/","traceId":"t","kind":"update","resource":"Patient/refused","version":"1","subscription":"s","sealed":"gAAAAABrDAfkU7BKe5QuPD1Vm0THS_IdIuekWhD0Gle3tTqXkJpVxBYcYjJEcRW73i5ygdXQQYc5Gs8P8AIDcJ2Fk41y5LnimcCus6EuEVHe8X0SXhw7Nz4s7N6nQ_tsOSbvABXVSwc1Df6ZELT4R1tk_lK7LOmPW_GPbVDuJ7Wa-IxrKd5hlhnDbfoz5la2dR2BXFEgWESbrIOPx40iziaDdInIH35oF_V0dRB0QZ438bjiiijJuZUP0XbKRbL9doGkHYte_YhTonPwrdtDeIpCiEgC82PRc0RA8F9926svwOybYhpYJR2DB90exxkjvpmwuAoRzbG8giW3sej-lB3f_8avrWpQ-thUik9olU4T2TUK9gyImHX8cGClsXSczx8apRWdQ5VY144-F1HP3okOo8bAPPd1dS4PFqAibsImJoJLhifQpI-l_rb5WeM7JSGVfDoX8YhP7xwtMcKMdaSC56jVrH3RoSAb1JwLpZoNaYa-3JDLev-Yv032Hn3TwkdJjtBwMQyl","traceparent":null}]}',1732878564000);
INSERT INTO "workflow_input" VALUES('greet:Patient/dead:1:update:s','{"namedArgs":{},"positionalArgs":[{"bot":"greet","botId":"b","baseUrl":"http://127.0.0.1/","traceId":"t","kind":"update","resource":"Patient/dead","version":"1","subscription":"s","sealed":"gAAAAABrDAfkhbInpBcSiu7jAGvnI2N_S1iwjPghgMIYzRss-zH2itnWiguUjENuUTPDbf8Jk3jg8vvF2XaxqUMLu1CjNy2KY3xOG--FOiCgCpGWMwzuj4pZm9lxsXTiB4Pf-vgLMJ3phcp0L1aGymqZdoqdUz2caMv6kFPBcqNSu0MgntDKYpNBxKE4VpA6TA4xUTGk1ZWGq_MffOSrhzLiUDc-4o9aWuyNKD61ughlBj9mnZPjtcZJGDsgFx0XUPSz4hk_V3fJJoFAqFWp1k2KF2hGmpGaSnZZCU6Qiz-j5RLsCsGZg5xoNIvOqZzBbDBansGUK9BSJ9RMwJwxtilm7S6BvhpVLgwZtUQSYFJStcl0gh-UZAPXSPOKxfyHHvQyBVz7my1PZJUtAct8P2K2QLYX5g-ySacpL99m0tscueKPM7k1X9p6Eul2qdhZZJcA0ZNJgCEFnL-3xZPOx1-83xU32m8Le5MzMQ3JEMqIi8efAtoJsqcqorJ5I9fS5zh9aDSWWH6k","traceparent":null}]}',1732878564000);
INSERT INTO "workflow_input" VALUES('greet:Patient/held:1:update:s','{"namedArgs":{},"positionalArgs":[{"bot":"greet","botId":"b","baseUrl":"http://127.0.0.1/","traceId":"t","kind":"update","resource":"Patient/held","version":"1","subscription":"s","sealed":"gAAAAABrDAflaJdN5NhX9am_sFo1GXL2qQd00VTGP3IO1L6DjIvS4T9aQRrIY3I7-1GqPdFb9FinmlLOzcE2kJGVQ4TQKZ52Y2ujOmhVm7gGgLPZ9FElcWy4kbzANawE3be4bvqPP_zyYQGZ1KhqmfG8rdbg3ZOBaOo3nsfLJ4vWGRgHfVQ_pBxf_Cv2hy6G3Ehpfahpr3o9_PNvq_rTvkoqTHvG3Rs7scnoqRZtv1BOyTeG2lcB4ac9bWaYFO7YTJe7IcgcLaxZK5AAZ_p9Bo54dFTTL9lTlC49qRN27qRQZq__y1jJuh7Zraw3Y_KR5FmTgy_Yr9EWgktFUFc5paHb-jYSLm8GtuCpabO3q8SKEYfAQdXqT8w-2iGJ6MLE4NJf-r6Mr0515aC5CcBHTWFssJzjkHdHHdQwLvkm7JkQeO0jxKI7cMNKFUCmPWxOKWu_SfG3zjD-JTOMZeL4z5bTrGSzVWT49eQvVwGSXoFK0if9_eVcYxiujOjf_dgYoreSdEmX0rXv","traceparent":null}]}',1732878565000);
INSERT INTO "workflow_input" VALUES('greet:Patient/held:2:update:s','{"namedArgs":{},"positionalArgs":[{"bot":"greet","botId":"b","baseUrl":"http://127.0.0.1/","traceId":"t","kind":"update","resource":"Patient/held","version":"2","subscription":"s","sealed":"gAAAAABrDAflbeB07OVo4tHwU4-BhKCnZ7WgSDdcj0yDhX2h77osRYN5Q3wjxEf9qpK5SyBwta6nyhJlMyG-E-UeV3750LhikBisaDBDu1ban332Z76G7M21pUurm5X8T3Oe4oOfjkwsAuNMNc6bKbruhWMhCHym1W1zQPWDCYqRbGC5M5UTXuinYUfvp9UDulbspyaQpxk1LTJcIQDnMR24YqCllLw7f_egDlx_uPx_UC5ErGPEqPci7w13EXlV3j31HLWm9NbWf44jcPq0EYvpXez_WQ4c8Lxic9bohW0oT8uUh6ijzvluH9akZJMupc6rFSEcu5IzfhRo1tiDvh_ISfSPJ9dAFWgQM9EJIerSeuSIpWJ4SMVI7GaSXMrZgUI50Gya-C44sxVQBiwlx55syA6mPzBFC3i72lkljOoJKBEiKw0HYRBEWVD9xHivEIpTdC-Aev1Z_ddo6gBBE1KLtRWXz3RQVMALK0xjarurU7-GUOhZUWl6Es_iZLhpGsO59ZtAWsM5","traceparent":null}]}',1732878565000);
CREATE TABLE workflow_output (
    workflow_uuid TEXT NOT NULL PRIMARY KEY,
    output TEXT,
    error TEXT,
    retention_timestamp INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000)
);
INSERT INTO "workflow_output" VALUES('greet:Patient/refused:1:update:s','{"state":"refused","code":"contradiction","retry_after":null,"attempt":0}',NULL,1732878565000);
INSERT INTO "workflow_output" VALUES('greet:Patient/dead:1:update:s',NULL,'{"name":"DeadLetter","message":"busy after 2","code":null}',1732878565000);
INSERT INTO "workflow_output" VALUES('greet:Patient/done:1:update:s','{"state":"done","code":"","retry_after":null,"attempt":0}',NULL,1732878565000);
CREATE TABLE workflow_schedules (
    schedule_id TEXT PRIMARY KEY,
    schedule_name TEXT NOT NULL UNIQUE,
    workflow_name TEXT NOT NULL,
    workflow_class_name TEXT,
    schedule TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'ACTIVE',
    context TEXT NOT NULL
, "last_fired_at" TEXT DEFAULT NULL, "automatic_backfill" BOOLEAN NOT NULL DEFAULT FALSE, "cron_timezone" TEXT DEFAULT NULL, "queue_name" TEXT DEFAULT NULL, "application_name" TEXT DEFAULT NULL);
CREATE TABLE workflow_status (
    workflow_uuid TEXT PRIMARY KEY,
    status TEXT,
    name TEXT,
    authenticated_user TEXT,
    assumed_role TEXT,
    authenticated_roles TEXT,
    request TEXT,
    output TEXT,
    error TEXT,
    executor_id TEXT,
    created_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    updated_at INTEGER NOT NULL DEFAULT (strftime('%s','now') * 1000),
    application_version TEXT,
    application_id TEXT,
    class_name TEXT DEFAULT NULL,
    config_name TEXT DEFAULT NULL,
    recovery_attempts INTEGER DEFAULT 0,
    queue_name TEXT,
    workflow_timeout_ms INTEGER,
    workflow_deadline_epoch_ms INTEGER,
    inputs TEXT,
    started_at_epoch_ms INTEGER,
    deduplication_id TEXT,
    priority INTEGER NOT NULL DEFAULT 0
, queue_partition_key TEXT, forked_from TEXT, "owner_xid" TEXT DEFAULT NULL, "parent_workflow_id" TEXT DEFAULT NULL, "serialization" TEXT DEFAULT NULL, "delay_until_epoch_ms" BIGINT DEFAULT NULL, "was_forked_from" BOOLEAN NOT NULL DEFAULT FALSE, "rate_limited" BOOLEAN NOT NULL DEFAULT FALSE, "completed_at" BIGINT, "attributes" TEXT, "schedule_name" TEXT, "debounce_deadline_epoch_ms" BIGINT DEFAULT NULL, "is_debounced" BOOLEAN NOT NULL DEFAULT FALSE, "application_name" TEXT DEFAULT NULL, "creator_xid" TEXT DEFAULT NULL);
INSERT INTO "workflow_status" VALUES('greet:Patient/done:1:update:s','SUCCESS','run_event',NULL,NULL,NULL,NULL,NULL,NULL,'host-of-0.1.0',1732878564000,1732878565000,'1','',NULL,NULL,1,'events',NULL,NULL,NULL,1732878564000,NULL,0,'partition-40',NULL,NULL,NULL,'portable_json',NULL,0,0,1732878565000,'null',NULL,NULL,0,'bot-host','be36ffe2-f223-4e64-a50c-b0c184ea5f20');
INSERT INTO "workflow_status" VALUES('greet:Patient/refused:1:update:s','SUCCESS','run_event',NULL,NULL,NULL,NULL,NULL,NULL,'host-of-0.1.0',1732878564000,1732878565000,'1','',NULL,NULL,1,'events',NULL,NULL,NULL,1732878564000,NULL,0,'partition-18',NULL,NULL,NULL,'portable_json',NULL,0,0,1732878565000,'null',NULL,NULL,0,'bot-host','3b564602-6017-4f94-ade4-1158ce389ef0');
INSERT INTO "workflow_status" VALUES('greet:Patient/dead:1:update:s','ERROR','run_event',NULL,NULL,NULL,NULL,NULL,NULL,'host-of-0.1.0',1732878564000,1732878565000,'1','',NULL,NULL,1,'events',NULL,NULL,NULL,1732878564000,NULL,0,'partition-7',NULL,NULL,NULL,'portable_json',NULL,0,0,1732878565000,'null',NULL,NULL,0,'bot-host','4c088d72-f19c-4fd0-8e71-f64bc50be5f0');
INSERT INTO "workflow_status" VALUES('greet:Patient/held:1:update:s','PENDING','run_event',NULL,NULL,NULL,NULL,NULL,NULL,'host-of-0.1.0',1732878565000,1732878565000,'1','',NULL,NULL,1,'events',NULL,NULL,NULL,1732878565000,NULL,0,'partition-34',NULL,'eb0a98ba-3f76-477e-ad00-aa02a1f984a6',NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'bot-host','82d626fd-b719-4047-ad7c-aa8d5eecaa90');
INSERT INTO "workflow_status" VALUES('greet:Patient/held:2:update:s','ENQUEUED','run_event',NULL,NULL,NULL,NULL,NULL,NULL,'host-of-0.1.0',1732878565000,1732878565000,'1','',NULL,NULL,0,'events',NULL,NULL,NULL,NULL,NULL,0,'partition-34',NULL,NULL,NULL,'portable_json',NULL,0,0,NULL,'null',NULL,NULL,0,'bot-host','2c1f4377-d22a-423d-87c9-c59ba50e5916');
CREATE INDEX workflow_status_created_at_index ON workflow_status (created_at);
CREATE INDEX idx_workflow_topic ON notifications (destination_uuid, topic);
CREATE INDEX "idx_workflow_status_delayed" ON "workflow_status" ("delay_until_epoch_ms") WHERE status = 'DELAYED';
CREATE INDEX "idx_workflow_status_forked_from" ON "workflow_status" ("forked_from") WHERE "forked_from" IS NOT NULL;
CREATE INDEX "idx_workflow_status_parent_workflow_id" ON "workflow_status" ("parent_workflow_id") WHERE "parent_workflow_id" IS NOT NULL;
CREATE UNIQUE INDEX "uq_workflow_status_dedup_id" ON "workflow_status" ("queue_name", "deduplication_id") WHERE "deduplication_id" IS NOT NULL;
CREATE INDEX "idx_workflow_status_pending" ON "workflow_status" ("created_at") WHERE "status" = 'PENDING';
CREATE INDEX "idx_workflow_status_failed" ON "workflow_status" ("status", "created_at") WHERE "status" IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED');
CREATE INDEX "idx_workflow_status_rate_limited" ON "workflow_status" ("queue_name", "started_at_epoch_ms") WHERE "rate_limited" = TRUE;
CREATE INDEX "idx_workflow_status_completed_at" ON "workflow_status" ("completed_at") WHERE "completed_at" IS NOT NULL;
CREATE INDEX "idx_workflow_status_started_at" ON "workflow_status" ("started_at_epoch_ms") WHERE "started_at_epoch_ms" IS NOT NULL;
CREATE INDEX "idx_workflow_status_schedule_name" ON "workflow_status" ("schedule_name") WHERE "schedule_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_owner_version"
    ON application_versions ("application_name", "version_name")
    WHERE "application_name" IS NOT NULL;
CREATE UNIQUE INDEX "uq_application_versions_unclaimed_version"
    ON application_versions ("version_name")
    WHERE "application_name" IS NULL;
CREATE INDEX idx_workflow_input_retention
    ON workflow_input (retention_timestamp);
CREATE INDEX idx_workflow_output_retention
    ON workflow_output (retention_timestamp);
CREATE INDEX idx_operation_outputs_retention
    ON operation_outputs (retention_timestamp);
CREATE INDEX "idx_workflow_status_in_flight_v2" ON "workflow_status" ("queue_name", "status", "priority", "created_at", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING');
CREATE INDEX "idx_workflow_status_partition_dequeue_v3" ON "workflow_status" ("queue_name", "status", "queue_partition_key", "priority", "created_at", "workflow_uuid", "application_name") WHERE "status" IN ('ENQUEUED', 'PENDING') AND "queue_partition_key" IS NOT NULL;
CREATE INDEX "idx_operation_outputs_completed_at_function_name_v2" ON "operation_outputs" ("completed_at_epoch_ms", "function_name", "application_name");
CREATE INDEX "idx_workflow_status_deadline" ON "workflow_status" ("workflow_deadline_epoch_ms") WHERE "status" IN ('ENQUEUED', 'PENDING', 'DELAYED') AND "workflow_deadline_epoch_ms" IS NOT NULL;
CREATE INDEX "idx_application_versions_timestamp" ON "application_versions" ("version_timestamp" DESC);
CREATE INDEX "idx_application_versions_owner_timestamp" ON "application_versions" ("application_name", "version_timestamp" DESC);
COMMIT;
