from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("runs", "0003_one_run_a_form_and_counted_work"),
    ]

    operations = [
        migrations.AddField(
            model_name="shard",
            name="progress_resumed",
            field=models.BigIntegerField(default=0),
        ),
    ]
