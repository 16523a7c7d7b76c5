"""Keep the audit log as it was written: triggers refuse to change, delete or truncate entries.

Retention (`manage.py forget_audit`) says so by a setting of its transaction, and even then nothing younger than 90 days
goes. Whoever owns the tables can drop the triggers: against them only a copy of the log elsewhere helps.
"""

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

MAKE = """
CREATE FUNCTION refuse_to_change_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('rso.audit_retention', true) = 'on' THEN
        IF OLD.at < now() - interval '90 days' THEN
            RETURN OLD;
        END IF;
    END IF;
    RAISE EXCEPTION 'entries of the audit log are neither changed nor deleted (%)', lower(TG_OP)
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;
CREATE TRIGGER audit_entries_stay BEFORE UPDATE OR DELETE ON accounts_auditentry
    FOR EACH ROW EXECUTE FUNCTION refuse_to_change_audit();
CREATE TRIGGER audit_log_is_not_emptied BEFORE TRUNCATE ON accounts_auditentry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_audit();
"""
UNMAKE = """
DROP TRIGGER audit_log_is_not_emptied ON accounts_auditentry;
DROP TRIGGER audit_entries_stay ON accounts_auditentry;
DROP FUNCTION refuse_to_change_audit();
"""


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0003_audit_log'),
    ]

    operations = [
        migrations.AlterField(
            model_name='auditentry',
            name='actor',
            field=models.ForeignKey(db_constraint=False, null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddIndex(
            model_name='auditentry',
            index=models.Index(fields=['action'], name='accounts_au_action_b13c49_idx'),
        ),
        migrations.RunSQL(MAKE, UNMAKE),
    ]
